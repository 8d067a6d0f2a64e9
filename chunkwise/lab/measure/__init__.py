"""Artefacts become numbers, and numbers become verdicts.

results.py      what was measured, as records
table.py        the tidy table of measurements

outcome.py      a study after its jobs have run, and what the files of an artefact hold
collect.py      artefacts -> results, with
  setting.py      what the study ran on, in words
  trainings.py    what its trainings cost and how they went
  runs.py         which of its runs ended, and why others did not
  arrange.py      controls, waterfalls, grids, tasks
  checks.py       integrity checks
  limits.py       what a reader must not take from it

noise.py        a difference over replicates and examples: variance, test, interval
critical.py     critical values of the sum of these two variances
statistics.py   second looks: sign flips, bootstrap, McNemar, scores at chance
slopes.py       change per halving of a datastore, tokens to a loss
verdicts.py     a family of tests -> words, and what would settle the open ones

sides.py        places of the table side by side, and the test of a weighted sum of them
contrast.py     one answered question as a record; which ones a sequential study goes on with
contrasts.py    comparisons -> contrasts: the sides of each, and its test
families.py     the contrasts of each family -> verdicts

cuts.py         the same on parts of the text: tokens that can read, clean documents
exchange.py     what retrieval is worth in training tokens
gains.py        the share of the gain over the twin that each change loses
published.py    a published table of variants beside ours
analysis.py     all of it for one study: mechanism controls, contributions, noise
"""
