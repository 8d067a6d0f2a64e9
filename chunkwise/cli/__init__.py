"""The command line: parse, call, print. Nothing imports it, and `--help` imports nothing heavy.

main.py takes errors and signals to exit codes, app.py lists the verbs, and each group of verbs has
a module. What runs behind train.py, evaluate.py and generate.py is in training.py, evaluation.py
and generation.py, which import what they need at their top; a verb imports them when it is called.
What they share: options.py (options, and `verb`, which adds them to a function), settings.py (the
settings of a stage and its inputs, from files and `--set`), steps.py (the calls of stages that a
verb makes, or shows in a dry run), checks.py (what is refused before anything is searched or
promised), output.py.
"""
