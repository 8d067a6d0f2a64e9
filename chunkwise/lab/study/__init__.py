"""Arms become jobs: what is trained and evaluated, what is shared, and how long it takes.

study.py        arms x replicates x evaluations, and what is compared
data.py         everything up to the neighbour tables
asked.py        a plan, a profile and the user's answers, read in one way for all commands
cost.py         what jobs are expected to take
estimate.py     how fast they were before: records of the store, rates.yaml
calibrate.py    how fast this machine is, by running a profile in miniature
dry_run.py      `--dry-run`
"""
