"""Tokens -> chunks -> BM25 index; views.

arguments.py      what callers pass, checked before compiled loops read it
config.py         the settings of every stage here, and of views
from_text.py      a datastore in one call, and what it finds as text
stages.py         DATASTORE, DATASTORE_VIEW
build.py          their builders
chunks.py         documents -> chunks that never cross them
bm25.py           the index: build, save, search
bm25_kernels.py   its compiled loops
reader.py         Datastore: open, gather neighbours with their continuation, search, rebuild a view
views.py          nested fractions, sources, quotas; what a view needs to be served
retriever.py      BM25 for generation
"""
