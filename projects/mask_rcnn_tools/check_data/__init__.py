"""Checks of data before a training: `tools/check_data.py`, and a brief one at every start."""
