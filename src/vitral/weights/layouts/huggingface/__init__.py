"""Layouts of Hugging Face transformers: ViT and DeiT, BiT, TimeSformer."""
