"""Saving, loading and transferring weights."""
