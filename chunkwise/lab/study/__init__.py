"""Arms become jobs: what is trained and evaluated, what is shared, and how long it takes.

planning.py     arms x replicates x evaluations of a plan under a profile
study.py        their jobs, and what one arm adds to them
comparisons.py  what is compared
trained.py      what is trained and measured, as values; the ids of what every study has
data.py         everything up to the neighbour tables
stops.py        what gets no further replicates, in a study that looks several times
asked.py        a plan, a profile and the user's answers, read in one way for all commands
cost.py         what jobs are expected to take
estimate.py     how fast they were before: records of the store, rates.yaml
calibrate.py    how fast this machine is, by running a profile in miniature
dry_run.py      `--dry-run`
"""
