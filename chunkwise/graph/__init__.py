"""What is computed, as values: stages, the jobs that call them, and the workers that run jobs.

    stage.py       Stage: a name, a version, a config, inputs, and where its builder is; the
                   registry of all stages
    jobs.py        Job, Jobs: the calls that a study is made of, each once
    schedule.py    which job runs when, and what became of it
    workers.py     processes that run jobs
    origin.py      from an artefact back to its inputs

Nothing here knows what an ablation is. The stages themselves are declared in `stages.py` of the
folder that builds them; importing those modules imports no torch.
"""
