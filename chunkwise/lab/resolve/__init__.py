"""Entries become arms: which component, which value, and what changes in the profile.

components.py   which component the plan's words name
values.py       which value they ask for
arms.py         entries -> arms
resolution.py   what a plan became
paper.py        what a paper used
"""
