"""Trainings that are disturbed on purpose: a run must end as if nothing had happened.

| file | holds |
|---|---|
| `cli.py` | the command line of `tests/soak` |
| `main.py` | rounds of disturbed training beside an undisturbed one, and the report |
| `faults.py` | the faults, each with how the run must answer it |
| `process.py` | a training in a process of its own, and what can be seen of it from outside |
| `compare.py` | what must be equal in the end |
"""
