"""A written plan, in whatever form, becomes entries with their lines.

read.py         the reader: a plan's text -> its title, trace and entries
document.py     what it gives: entries, diagnostics; and a document written back as Markdown
entries.py      a complete draft -> an entry, and what is said about it
draft.py        an entry while it is read: labelled lines -> values
layouts.py      names, tables, LaTeX -> labelled lines
labels.py       the words of labels, heads and actions
forms.py        JSON, YAML, and lists on one line
text.py         decoding, cleaning, folding
quantities.py   "600B tokens", "1 %", "half"
"""
