"""Vitral beside other libraries, in one process and on the same function."""
