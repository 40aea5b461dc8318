"""Processes and hosts of a run."""
