"""What is about Python source only: the source `python` and the stage `questions`.

source.py      installed packages -> documents of three kinds (code, docstrings, prose); registered
               in `corpus.sources`
syntax.py      source text -> its code and its docstrings, and docstrings back to definitions
questions.py   the stage questions: four-way questions and instructions from docstrings
options.py     what may stand beside a right answer without giving it away
"""
