"""Results become what one reads.

write.py        report.html, report.md, report.json
page.py         sections of tables, figures and sentences
findings.py     the sections on what was found
account.py      the sections on how
figures.py      the figures
wording.py      numbers and verdicts in words
"""
