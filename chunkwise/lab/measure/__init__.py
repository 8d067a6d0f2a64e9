"""Artefacts become numbers, and numbers become verdicts.

results.py      what was measured, as records
collect.py      artefacts -> results
table.py        the tidy table of measurements
checks.py       controls, waterfalls, grids, integrity checks, limits
statistics.py   intervals, tests, levels, verdicts
contrasts.py    differences between arms
analysis.py     mechanism controls, contributions, exchange rate, noise
"""
