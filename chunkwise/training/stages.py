"""The training stages: artefacts in, a model out.

    base            a decoder from scratch
    adopted-base    a decoder from a folder or hub, as it is                    (stored as a base)
    retrofit        decoder + encoder + cross-attention, trained on with neighbours
    twin            the same decoder, trained on with the same tokens, without
    in-prompt       the same again, with the neighbours written into the text
    instruct        any of these, tuned on instructions

A killed training goes on from its last checkpoint, in the store's scratch folder, when the stage is
called again, on as many processes as then. All processes of a launch call the stage; they train
together (`processes`), and the first one writes the artefact.
"""

from chunkwise.corpus.stages import QUESTIONS_INPUT, SEQUENCES_INPUT, TOKENS_INPUT
from chunkwise.datastore.stages import DATASTORE_INPUT
from chunkwise.evaluation.stages import MODEL_INPUT
from chunkwise.graph.stage import Stage, declare
from chunkwise.neighbours.stages import NEIGHBOURS_INPUT
from chunkwise.training.config import (
    AdoptedBase,
    BaseConfig,
    InPromptConfig,
    InstructConfig,
    RetrofitConfig,
    TwinConfig,
)

VERSION = 4
"""Of all trainings. 3: neighbours that no predicted token reads are not encoded. 4: dropout that a
decoder's family sets by itself is off unless it is asked for.
"""

TEAM = "chunkwise.training.processes:team"

_RETRIEVAL = {
    "base": MODEL_INPUT,
    "sequences": SEQUENCES_INPUT,
    "neighbours": NEIGHBOURS_INPUT,
    "datastore": DATASTORE_INPUT,
    "validation": SEQUENCES_INPUT.or_none(),
    "validation_neighbours": NEIGHBOURS_INPUT.or_none(),
}

BASE = declare(
    Stage(
        name="base",
        version=VERSION,
        config=BaseConfig,
        inputs={"sequences": SEQUENCES_INPUT, "validation": SEQUENCES_INPUT.or_none()},
        resolve="chunkwise.training.resolve:base",
        build="chunkwise.training.base:build",
        seeded=True,
        team=TEAM,
    )
)

ADOPTED_BASE = declare(
    Stage(
        name="adopted-base",
        version=VERSION,
        config=AdoptedBase,
        inputs={"tokens": TOKENS_INPUT},
        resolve="chunkwise.training.resolve:adopted_base",
        build="chunkwise.training.pretrained:build",
        folder="base",  # every stage that takes a base takes this one too
    )
)

RETROFIT = declare(
    Stage(
        name="retrofit",
        version=VERSION,
        config=RetrofitConfig,
        inputs=_RETRIEVAL,
        resolve="chunkwise.training.resolve:retrofit",
        build="chunkwise.training.continued:build_retrofit",
        seeded=True,
        per_call=("view",),
        team=TEAM,
    )
)

TWIN = declare(
    Stage(
        name="twin",
        version=VERSION,
        config=TwinConfig,
        inputs={
            "base": MODEL_INPUT,
            "sequences": SEQUENCES_INPUT,
            "validation": SEQUENCES_INPUT.or_none(),
        },
        resolve="chunkwise.training.resolve:twin",
        build="chunkwise.training.continued:build_twin",
        seeded=True,
        team=TEAM,
    )
)

IN_PROMPT = declare(
    Stage(
        name="in-prompt",
        version=VERSION,
        config=InPromptConfig,
        inputs=_RETRIEVAL,
        resolve="chunkwise.training.resolve:in_prompt",
        build="chunkwise.training.continued:build_in_prompt",
        seeded=True,
        team=TEAM,
    )
)

INSTRUCT = declare(
    Stage(
        name="instruct",
        version=VERSION,
        config=InstructConfig,
        inputs={
            "model": MODEL_INPUT,
            "instructions": QUESTIONS_INPUT,
            "tokens": TOKENS_INPUT,
            "datastore": DATASTORE_INPUT.or_none(),
        },
        resolve="chunkwise.training.resolve:instruct",
        build="chunkwise.training.instruct:build",
        seeded=True,
        per_call=("view", "chunk_tokens", "neighbours"),
        team=TEAM,
    )
)
