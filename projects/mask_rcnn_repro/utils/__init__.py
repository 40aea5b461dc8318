"""Helpers that do not depend on detection.

| file | what it holds |
|---|---|
| atomic.py | files that appear complete or not at all |
| checkpoint_paths.py | local files of checkpoint addresses |
| compiled.py | functions compiled by Numba, and threads that run them |
| disk_errors.py | full and failing disks |
| interruption.py | stopping on signals, in all processes together |
| locks.py | one run at a time in a directory |
| out_of_memory.py | detection of memory errors, and retries in smaller parts |
| startup.py | hidden warnings of dependencies, faster imports |
"""
