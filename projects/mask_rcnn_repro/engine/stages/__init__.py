"""Stage-wise training: the runs that a run depends on."""
