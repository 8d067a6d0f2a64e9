"""What is about Python source only: the source `python` and the stage `questions`.

source.py      installed packages -> documents of three kinds (code, docstrings, prose); registered
               in `corpus.sources`
syntax.py      source text -> its code and its docstrings, and these back to definitions and values
parameters.py  what docstrings say of parameters
questions.py   the stage questions: questions of six tasks, and instructions
copied.py      the task copied
sentences.py   what of a docstring can be an answer
options.py     what may stand beside a right answer of copied without giving it away
described.py   names of a document, with the sentences that are said of them
nearby.py      the tasks same_document, which_function and yes_no
values.py      the tasks default_value and counterfactual
drafts.py      which questions are asked: spread over tasks and packages, places balanced
"""
