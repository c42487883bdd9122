"""The version of vitral, for the package, its files and its users."""

__version__ = "0.1.0"
