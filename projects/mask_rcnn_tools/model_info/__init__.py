"""Parameters and FLOPs of a config's model, by part."""
