"""Result records: what leaves a run, and where it comes from."""
