"""The stage `gate-off-check`: is a Retro model with its gate at 0 really its decoder? Behind every
gate-off figure.

The decoder's weights are put into a decoder that retrieval was never attached to, and both read the
same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chunkwise.core.artefact import Artefact
from chunkwise.core.config import Config
from chunkwise.core.io import load_npy, write_json
from chunkwise.graph.stage import Run

ROWS = 4


def build(config: Config, run: Run, model: Artefact, sequences: Artefact) -> Mapping[str, Any]:
    """Compare the logits of a Retro model at gate 0 with those of its bare decoder: check.json.

    Args:
        sequences: rows to read; the first few are used.

    Returns:
        rows, largest_difference of any logit.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from chunkwise.model.retro import RetroForCausalLM
    from chunkwise.model.weights import load

    # Without a device, so on the CPU: the two have to compute alike, not fast.
    retro = load(model.file("model"))
    assert isinstance(retro, RetroForCausalLM)
    weights = retro.decoder.state_dict()
    for name in retro.retrieval_parameter_names():
        weights.pop(name.removeprefix("decoder."), None)
    bare = AutoModelForCausalLM.from_config(retro.config.decoder).eval()
    # Strict: it fails unless exactly the decoder's own weights are left.
    bare.load_state_dict(weights)
    tokens = load_npy(sequences.file("sequences.npy"))[:ROWS]
    rows = torch.from_numpy(tokens.astype(np.int64))
    with torch.inference_mode():
        gated = retro(input_ids=rows, gate=0.0).logits
        plain = bare(input_ids=rows).logits
    largest = float((gated - plain).abs().max())
    facts = {"rows": len(rows), "largest_difference": largest}
    write_json(run.folder / "check.json", facts)
    return facts
