"""Floor 6: a model as a file for another runtime, measured before it is kept."""
