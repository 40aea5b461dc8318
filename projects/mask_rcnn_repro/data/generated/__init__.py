"""Annotations that a model generated (data distillation)."""
