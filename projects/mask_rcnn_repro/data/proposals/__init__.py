"""Stored proposals."""
