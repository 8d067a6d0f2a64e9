"""Entries become arms: which component, which value, and what changes in the profile.

vocabulary.yaml, vocabulary.py   what plans may call the settings of a profile
components.py   which component the plan's words name
values.py       which value they ask for
arms.py         entries -> arms
resolution.py   what a plan became
paper.py        what a paper used
"""
