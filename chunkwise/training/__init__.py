"""Training through transformers' Trainer: base, retrofit, twin, in-prompt rival, instruction
tuning.

    config.py       a config for each kind of training
    options.py      what they share: steps, rates, precision, low-rank updates
    curriculum.py   settings of the made neighbours
    fields.py       bounded numbers of the configs, and fields set back to their defaults
    stages.py       BASE, ADOPTED_BASE, RETROFIT, TWIN, IN_PROMPT, INSTRUCT: artefacts in, a model
                    artefact out
    resolve.py      what of a call makes its key
    limits.py       what is refused of a model, told from numbers alone
    base.py         the builder of base
    pretrained.py   the builder of adopted-base
    continued.py    the builders of retrofit, twin and in-prompt
    instruct.py     the builder of instruct: instructions -> token ids -> a model
    running.py      what all builders share: a job for the trainer, a model artefact out
    data.py         which rows a step reads; batches for each kind
    retrieval.py    the view of a datastore that a training reads
    made_neighbours.py  windows of a row's own text, read instead of found neighbours at first
    initialise.py   initial weights, drawn by parameter name
    presets.py      how the papers trained, by name
    lora.py         low-rank updates instead of the decoder's weights
    job.py          what the loop is given, and what it leaves behind
    trainer.py      the loop: learning rates, parts of a step, curves
    arguments.py    what transformers' Trainer is told: its settings, and groups of parameters
    loss.py         the loss of a batch
    surroundings.py what a training changes around itself and puts back
    processes.py    several processes: what is sharded, and what they do together
    checkpoint.py   what a training goes on from, on as many processes as there then are
    trackers.py     curves while it runs: TensorBoard, trackio, Weights & Biases
    dropout.py      dropout wherever a decoder keeps its own
    feed_forward.py gated feed-forwards that keep less for the backward pass
    attention.py    attention by plain products, the faster way in bfloat16 on a CPU
    flops.py        operations of a training, by formula: before it runs, and of what it has read
    report.py       training.json: curves, tokens, parameters, FLOPs

Importing `stages`, `config` and `flops` imports no torch.
"""
