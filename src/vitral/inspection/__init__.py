"""Floor 3: what a model looks at and how; models and images in, arrays out."""
