"""One command runs a table of the paper: stages, rows, seeds, and the table with verdicts.

| file | what |
|---|---|
| choose.py, named.py | find tables, rows and configs by the names that users type |
| ablation.py, sweep.py | make tables of own ablations and of sweeps |
| jobs.py, plan.py | list the runs that a table needs: stages first, equal configs once |
| usable_records.py | find the runs that have a record which counts already |
| seeds.py | determine how many seeds the paper's claims need |
| cost.py | estimate how long runs take |
| process.py, execute.py | run jobs concurrently, and survive interruptions |
| trial.py | measure how many runs side by side are fastest on a CPU |
| progress.py | show the progress |
| slurm.py | run jobs on a cluster |
| outcomes.py, show.py | make and format the table at the end |
| reproduce.py | compare runs with the recorded ones |
| collect.py | copy records to results/ |
"""
