"""Layouts of Google Research's repositories: vision_transformer, big_vision, BiT."""
