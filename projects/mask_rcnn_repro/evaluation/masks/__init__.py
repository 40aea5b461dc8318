"""From small mask predictions to run-length encoding."""
