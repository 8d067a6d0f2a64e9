"""The lab: from a written plan to a report, through five rooms. A document flows through them
without coming back.

    terms.py, profile.py   the ground: words that all rooms share, and the baseline of a study at
                           one scale
    plan/                  text -> entries
    resolve/               entries -> arms
    study/                 arms -> jobs
    measure/               artefacts -> numbers, tests, verdicts
    report/                results -> pages
    verdict/               runs of other tools -> verdicts in the same words
    run.py                 one call for each
    looks.py               what one look of a study sees, and how far a study has come
    bases.py               the same study on several bases: how much of the noise lies there

Reading a plan imports nothing heavy; resolving one imports the declarations of all stages.
"""
