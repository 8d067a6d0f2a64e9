"""The command line: parse, call, print. Nothing imports it, and `--help` imports nothing heavy.

main.py takes errors and signals to exit codes, app.py lists the verbs, and each verb has a module.
What they share: options.py, steps.py (the calls of stages that a verb makes, or shows in a dry
run), settings.py (files and `--set` to configs), output.py.
"""
