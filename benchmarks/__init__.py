"""Measurements of vitral: one script each; `peers` measures it and other libraries."""
