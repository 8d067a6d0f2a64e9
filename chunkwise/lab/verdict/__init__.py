"""Verdicts on runs that were trained and evaluated elsewhere, with the statistics and the words of
a study.

files.py    CSV, TSV, JSON lines, Parquet -> rows and their places
names.py    where runs lie, and which arm and seed a run is
forms.py    which form a file has; files -> readings
tables.py   long and wide tables, the table of a study of ours
samples.py  samples of lm-evaluation-harness
curves.py   W&B and TensorBoard exports, read at one step
readings.py one measured number with the arm, the seed and the metric it belongs to
runs.py     readings -> checked runs, one for each arm, seed and metric
rules.py    how a metric is analysed, by its name
judge.py    runs -> verdicts, and whether an arm is to be kept
sentences.py a contrast in sentences
words.py    verdicts as text and as JSON

Nothing here imports torch.
"""
