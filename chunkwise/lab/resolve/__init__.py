"""Entries become arms: which component, which value, and what changes in the profile.

vocabulary.yaml, vocabulary.py   what plans may call the settings of a profile
words.yaml, words.py   the words of plans in one wording, and the matching of parts by them
components.py   which component the plan's words name
routes.yaml, routes.py   where else words may belong: "retriever: random neighbours"
narrower.py     a part that says less than the setting it matches
outside.yaml, outside.py   what no profile can vary, with the reasons
values.py       which value they ask for
sizes.py        an amount against the baseline, and its words
layers.py       layers in words
consequences.py   what has to change together with a setting
arms.py         entries -> arms
buildable.py    whether an arm can be built on its base
resolution.py   what a plan became
said.py         the same in words and JSON, for `plan check` and the dry run
answers.py      an overrides file written from it
catalogue.py    what plans may name, for `plan components`
paper.py        what a paper used
subject.py      which paper a plan is about
metrics.py      what a plan's metrics are measured as, and on what
"""
