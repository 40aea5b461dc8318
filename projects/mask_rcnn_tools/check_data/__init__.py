"""Checking data before it is trained on: `tools/check_data.py`, and before each training."""
