"""Results become what one reads.

write.py      report.html, report.md, report.json, the table of measurements
page.py       what a page is made of: sections of tables, figures and sentences
banners.py    what a reader must know before the first number
names.py      arms and views as people call them
sections/     the sections, a file each
draw.py       how figures are drawn
wording.py    numbers and verdicts in words
exchange_words.py   what retrieval is worth in training tokens, in sentences
"""
