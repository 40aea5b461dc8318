"""Command `tools/distill.py`."""
