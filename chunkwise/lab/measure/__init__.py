"""Artefacts become numbers, and numbers become verdicts.

results.py      what was measured, as records
collect.py      artefacts -> results
table.py        the tidy table of measurements
checks.py       controls, waterfalls, grids, integrity checks, limits
noise.py        a difference over replicates and examples: variance, test, interval
critical.py     critical values of the sum of these two variances
verdicts.py     a family of tests -> words, and what would settle the open ones
statistics.py   second looks: sign flips, bootstrap, McNemar, scores at chance
slopes.py       change per halving of a datastore, tokens to a loss
contrasts.py    differences between arms
cuts.py         the same on parts of the text: tokens that can read, clean documents
exchange.py     what retrieval is worth in training tokens
gains.py        the share of the gain over the twin that each change loses
analysis.py     all of it for one study: mechanism controls, contributions, noise
"""
