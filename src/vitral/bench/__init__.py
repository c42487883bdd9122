"""Floor 6: vitral beside the libraries that are installed."""
