"""One command runs a table of the paper: stages, rows, seeds, and the table with verdicts.

| file | what |
|---|---|
| choose.py, named.py | tables, their rows and configs, by any name that a reader would give |
| ablation.py, sweep.py | own ablations as tables; sweeps |
| jobs.py, plan.py | which runs a table needs, stages first, equal configs once |
| usable_records.py | which of them have a record that counts already |
| seeds.py | how many seeds the paper's claims need |
| cost.py | how long they take |
| process.py, execute.py | running them side by side; surviving interruptions |
| progress.py | how far they are |
| slurm.py | the same on a cluster |
| outcomes.py, show.py | the table at the end |
| reproduce.py | whether runs here repeat the recorded ones |
| collect.py | copying records to results/ |
"""
