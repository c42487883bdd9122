"""Layouts of vit-pytorch: ViT and SimpleViT."""
