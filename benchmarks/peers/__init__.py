"""Comparison of vitral with other libraries, in one process and on one function."""
