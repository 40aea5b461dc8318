"""One command runs a table of the paper: stages, rows, seeds, and the table with verdicts.

| file | what |
|---|---|
| names.py | tables and their rows, by any name that a reader would give |
| jobs.py, plan.py | which runs a table needs, stages first, equal configs once |
| valid.py | which of them have a record that counts already |
| cost.py | how long they take |
| process.py, execute.py | running them side by side; surviving interruptions |
| progress.py | how far they are |
| slurm.py | the same on a cluster |
| outcome.py, show.py | the table at the end |
| collect.py | copying records to results/ |
"""
