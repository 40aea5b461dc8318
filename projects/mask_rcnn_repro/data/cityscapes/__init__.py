"""Cityscapes in its official layout."""
