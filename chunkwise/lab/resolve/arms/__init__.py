"""The values of a plan's entry become arms: which field takes them, and what changes with it.

    entry --values.Interpreter--> readings --build.ArmBuilder--> arms --buildable--> those that run

The words of the part are matched with components one folder up, which imports nothing of this.

plan.py         a whole plan: its entries, and what holds for all of them
overrides.py    the user's answers, where the rules find none
entry.py        one entry: its rows, arms and warnings
values.py       which of its ways to be read a replacement takes
options.py      replacements in words: options, sources, settings by name
numbers.py      replacements that are amounts: shares, amounts of data, hyper-parameters
sizes.py        an amount against the baseline: which number it is here
wording.py      the same in full words
layers.py       layers in words
scope.py        the components that an entry names, and what their settings are in the profile
reading.py      what some words mean here, or why they do not
build.py        a reading becomes an arm
consequences.py what has to change together with a setting
companions.py   arms that stand beside others: the mixed view, the second meaning of a removal
buildable.py    whether an arm can be built on its base
status.py       what is left of a plan without the arms that cannot run
said.py         what a plan became in words and JSON, for `plan check` and the dry run
answers.py      an overrides file written from it
"""
