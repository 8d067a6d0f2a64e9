"""Entries become arms: which component, which value, and what changes in the profile.

This folder has the first half, from words to components; nothing in it imports `arms`.

data.py         the YAML files of the folder
words.yaml, words.py   the words of plans in one wording
vocabulary.yaml, vocabulary.py   what plans may call the settings of a profile
outside.yaml, outside.py   what no profile can vary, with the reasons
routes.yaml, routes.py   where else words may belong: "retriever: random neighbours"
names.py        which thing words mean, of several that have names
parts.py        the parts of a study, and which of them a plan's words mean
components.py   the registry of them, collected from the vocabulary
narrower.py     a part that says less than the setting it matches
entry_part.py   which components an entry's part means
paper.py        what a paper used
titles.yaml, titles.py   whether a title is that of other work
subject.py      which paper a plan is about
metrics.py      what a plan's metrics are measured as, and on what
catalogue.py    what plans may name, for `plan components`
resolution.py   what a plan became
arms/           the second half: values become arms
"""
