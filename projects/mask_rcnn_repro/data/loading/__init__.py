"""From data set dicts to batches."""
