"""Scatter over seeds and test images: plans of seeds, power, bootstrap."""
