"""A written plan, in whatever form, becomes entries with their lines.

read.py         the reader: Markdown, tables, prose, JSON, YAML
document.py     what it gives: entries, diagnostics; and a document written back as Markdown
forms.py        lists, objects, cells
text.py         decoding, cleaning, folding
quantities.py   "600B tokens", "1 %", "half"
"""
