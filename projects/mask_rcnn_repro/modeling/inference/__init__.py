"""A trained detector, optimized for inference."""
