"""Chunks of text -> their neighbours in a datastore; views applied by filtering.

config.py     the settings of both searches
stages.py     NEIGHBOURS, QUESTION_NEIGHBOURS, REBUILD_CHECK
search.py     the builders of both searches
queries.py    what is searched for, and which documents are no neighbours
overlap.py    hits that are the query's own text
exact.py      search a view, or a rebuild of it, by the table's rules
table.py      NeighbourTable: the k nearest inside a view, or a refusal
rebuild.py    the stage rebuild-check: the same view built physically, to compare
controls.py   random neighbours and the oracle
in_prompt.py  neighbours written into the prompt instead
"""
