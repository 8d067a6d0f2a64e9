"""Verdicts on runs that were trained and evaluated elsewhere, with the statistics and the words of
a study.

files.py    CSV, TSV, JSON lines, Parquet -> rows and their places
names.py    where runs lie, and which arm and seed a run is
forms.py    rows -> readings: long and wide tables, lm-eval samples, W&B and TensorBoard exports
runs.py     readings -> checked runs, one for each arm, seed and metric
judge.py    runs -> verdicts, and whether an arm is to be kept
words.py    verdicts as text and as JSON

Nothing here imports torch.
"""
