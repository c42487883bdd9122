"""Floor 6: a trained model behind HTTP."""
