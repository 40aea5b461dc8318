"""The command behind `tools/distill.py`."""
