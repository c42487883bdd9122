"""Floor 6: the fastest way to run a model that is still good enough."""
