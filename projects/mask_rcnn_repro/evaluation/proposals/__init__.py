"""Average recall of proposals."""
