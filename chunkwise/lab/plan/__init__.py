"""A written plan, in whatever form, becomes entries with their lines.

read.py          the reader: a plan's text -> its title, trace and entries
document.py      what it gives: entries, diagnostics; and a document written back as Markdown
text.py          decoding, cleaning, folding

Of a page:
layouts.py       quotes, LaTeX, underlined headings -> the page form
outline.py       fences, headings, the sections below the plan's heading
lines.py         a line, its bullet and its label
names.py         labelled lines -> the lines of each entry, and its name
tables.py        tables -> rows
pages.py         all of these -> entries
front.py         what stands beside the entries: title, trace, paper, data

Of JSON and YAML:
forms.py         the values in a text, and the entries in a value
objects.py       objects -> entries

Of an entry:
draft.py         an entry while it is read: labelled lines -> values
entries.py       a complete draft -> an entry, and what is said about it
labels.py        the words of labels and heads
actions.py       ADD, REMOVE and REPLACE in words

Of a value:
inline.py        one line -> its values or metrics
quantities.py    "600B tokens", "1 %", "half": the value that a replacement is
literals.py      "[1, 4]", "layers 2, 3"
lists.py         "600B, 300B and 150B tokens"
pieces.py        where a list is cut
unclear.py       lists that may mean two things
amounts.py       what a row of words and numbers says
amount_items.py  one amount -> its row
number_words.py  the words of amounts
"""
