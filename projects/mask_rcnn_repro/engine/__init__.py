"""Training, evaluation and everything around a run: hooks, checkpoints, processes."""
