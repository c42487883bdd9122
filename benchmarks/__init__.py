"""Measurements of vitral, one script each; `peers` compares it with other libraries."""
