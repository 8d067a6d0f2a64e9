"""Arms become jobs: what is trained and evaluated, what is shared, and how long it takes.

study.py        arms x replicates x evaluations, and what is compared
data.py         everything up to the neighbour tables
cost.py         what jobs are expected to take
calibrate.py    how fast this machine is, at a profile's sizes
dry_run.py      `--dry-run`
"""
