"""Every published variant of RETRO and every control in the words of a plan: what the lab makes of it, that it runs."""

import json

import numpy as np
import pytest

from chunkwise.core.store import Store
from chunkwise.lab.plan.read import parse
from chunkwise.lab.resolve.arms.plan import resolve
from chunkwise.lab.run import ablate
from tests.lab.test_resolve import changes, make_profile, resolve_one
from tests.lab.tiny_study import tiny_profile, write_corpus

RETRO, CCA = "retrofit.retro", "chunk-wise cross-attention"
VARIANTS = [
    # part of the plan, replacement (None: REMOVE), field -> value
    ("CCA layers", "every third layer", {}),  # the default: RETRO's own
    (CCA, "one mid layer", {f"{RETRO}.cca_layers": "middle"}),
    (CCA, "all layers", {f"{RETRO}.cca_layers": "all"}),
    ("CCA layers", "last layer", {f"{RETRO}.cca_layers": "last"}),
    ("CCA layers", "layers 2, 4 and 6", {f"{RETRO}.cca_layers": [2, 4, 6]}),
    ("encoder depth", "6 layers", {f"{RETRO}.encoder_layers": 6}),
    ("width of the neighbour encoder", "896 dimensions", {f"{RETRO}.encoder_width": 896}),
    ("query conditioning", None, {f"{RETRO}.query_conditioning": False}),
    ("neighbour continuation", "neighbour only", {f"{RETRO}.continuation": "neighbour"}),
    ("neighbour continuation", "continuation only", {f"{RETRO}.continuation": "continuation"}),
    ("number of neighbours", "4 neighbours", {f"{RETRO}.neighbours": 4}),
    ("neighbours at evaluation", "10 neighbours", {"evaluation_neighbours": 10}),
    ("neighbours at evaluation", None, {"evaluation_neighbours": 0}),
    ("positional encodings in cross-attention", None, {f"{RETRO}.relative_positions": "none"}),
    ("relative positions in chunk-wise cross-attention", "a learned bias by distance",
     {f"{RETRO}.relative_positions": "table"}),
    ("embeddings of the encoder", "own embeddings", {f"{RETRO}.encoder_embeddings": "own"}),
    (CCA, "tanh gate", {f"{RETRO}.learned_gate": "tanh"}),
    ("learned gate on chunk-wise cross-attention", "scalar gate", {f"{RETRO}.learned_gate": "scalar"}),
    ("retrieval at inference", None, {f"{RETRO}.gate": 0.0}),
    (CCA, "neighbours in the prompt at equal tokens", {"mechanism": "in_prompt"}),
    (CCA, "the chunk's own text", {"retrofit.neighbour_source": "own"}),
    (CCA, "random neighbours", {"retrofit.neighbour_source": "random"}),
    (CCA, "shuffled neighbours", {"retrofit.neighbour_source": "shuffled"}),
    (CCA, "wider MLP", {"mechanism": "wider"}),
    (CCA, None, {"mechanism": "none"}),
    ("positional encodings of the encoder", None, {f"{RETRO}.encoder_positions": "none"}),
    ("alignment of chunks", "right-aligned chunks", {f"{RETRO}.chunk_alignment": "right"}),
    ("neighbour masks", "unmasked neighbours", {f"{RETRO}.missing_tokens": "read"}),
    ("encoder dropout", "0.1", {f"{RETRO}.encoder_dropout": 0.1}),
    ("norms of encoder and cross-attention", "LayerNorm", {f"{RETRO}.norm": "layer"}),
    ("feed-forward of the neighbour encoder", "gated feed-forward", {f"{RETRO}.encoder_feed_forward": "swiglu"}),
    ("frozen backbone", "frozen", {"retrofit.freeze_backbone": True}),
]  # fmt: skip


@pytest.mark.parametrize(("part", "replacement", "expected"), VARIANTS, ids=lambda value: str(value))
def test_the_lab_knows_the_variant(part, replacement, expected):
    if replacement is None:
        entry = resolve_one(part, action="REMOVE")
    else:
        entry = resolve_one(part, replacement)
    assert entry.status == "resolved", [row.message for row in entry.replacements]
    assert changes(entry) == ([expected] if expected else [])  # the baseline's own value is no arm
    for arm in entry.arms:
        arm.profile(make_profile())  # the values fit together


MADE = "retrofit.made_neighbours"
CURRICULUM = [
    ("made neighbours in training", None, {f"{MADE}.share": 0.0}),
    ("curriculum of made neighbours", None, {f"{MADE}.share": 0.0}),
    ("made neighbours in training", "0.3", {f"{MADE}.share": 0.3}),
    ("aligned phase", None, {f"{MADE}.aligned_steps": 0}),
    ("widening phase", None, {f"{MADE}.widening_steps": 0}),
    ("fall of the made neighbours", None, {f"{MADE}.fall_steps": 0}),
    ("aligned phase", "50 steps", {f"{MADE}.aligned_steps": 50}),
    ("replaced tokens in made neighbours", None, {f"{MADE}.replaced_tokens": 0.0}),
    ("random neighbours in training", "0.15", {"retrofit.random_neighbours": 0.15}),
]


@pytest.mark.parametrize(("part", "replacement", "expected"), CURRICULUM, ids=lambda value: str(value))
def test_the_lab_knows_the_curriculum_of_made_neighbours(part, replacement, expected):
    profile = make_profile(retrofit={"made_neighbours": {"share": 0.7}, "train": {"steps": 1000}})
    given = () if replacement is None else (replacement,)
    entry = resolve_one(part, *given, action="REPLACE" if given else "REMOVE", profile=profile)
    assert entry.status == "resolved" and changes(entry) == [expected]
    assert [row.path for row in entry.replacements] == list(expected)
    changed = entry.arms[0].profile(profile)
    assert changed.used != profile.used
    assert changed.twin_config() == profile.twin_config() and entry.arms[0].unused == ()


@pytest.mark.parametrize(
    "part", ["aligned phase", "widening phase", "fall steps", "replaced tokens in made neighbours"]
)
@pytest.mark.parametrize("retrofit", [{}, {"made_neighbours": {"share": 0.7}, "neighbour_source": "random"}])
def test_a_phase_of_a_curriculum_that_is_not_used_is_no_arm(part, retrofit):
    profile = make_profile(retrofit=retrofit | {"train": {"steps": 1000}})
    entry = resolve_one(part, action="REMOVE", profile=profile)
    assert (entry.status, entry.arms) == ("not-applicable", ())
    assert "the baseline does not use retrofit.made_neighbours." in entry.replacements[0].message
    assert resolve_one("made neighbours in training", action="REMOVE").status == "not-applicable"


def test_a_curriculum_that_does_not_fit_into_the_training_is_no_arm():
    profile = make_profile(retrofit={"made_neighbours": {"share": 0.7}, "train": {"steps": 1000}})
    (row,) = resolve_one("aligned phase", "101 steps", profile=profile).replacements
    assert (row.status, row.arm) == ("unresolved", None)
    assert "needs 1001 steps" in row.message and "the training has 1000" in row.message


ARMS = ["the chunk's own text", "random neighbours", "shuffled neighbours", "wider MLP"]
SETTINGS = {
    "neighbours at evaluation": ["1 neighbour", "0 neighbours"],
    "learned gate on chunk-wise cross-attention": ["tanh gate"],
}


@pytest.mark.slow
def test_controls_and_variants_run_to_the_report(tmp_path):
    write_corpus(tmp_path / "text")
    entries = [
        {"name": "controls", "ablated_part": CCA, "action": "REPLACE", "replacement": ARMS,
         "metrics": ["perplexity", "zero-shot QA accuracy"]},
        *({"name": part, "ablated_part": part, "action": "REPLACE", "replacement": values, "metrics": ["perplexity"]}
          for part, values in SETTINGS.items()),
    ]  # fmt: skip
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(entries))
    profile = tiny_profile(tmp_path / "text")
    resolution = resolve(parse(plan.read_text()), profile)
    assert resolution.exit_code == 0
    assert ablate(plan, profile, tmp_path / "out", store=Store(tmp_path / "store"), workers=2) == 0
    results = json.loads((tmp_path / "out/report.json").read_text())["results"]
    cells = {(cell["at"]["arm"], cell["at"]["condition"]) for cell in results["cells"]}
    ids = {arm.label: arm.id for entry in resolution.entries for arm in entry.arms}
    for label, conditions in {
        "the chunk's own text": {"own", "both"}, "random neighbours": {"random", "both"},
        "shuffled neighbours": {"shuffled", "both"}, "wider MLP": {"none", "prompt"}, "1 neighbour": {"on"},
        "0 neighbours": {"off"}, "tanh gate": {"on"},
    }.items():  # fmt: skip
        assert conditions <= {condition for arm, condition in cells if arm == ids[label]}, label
    assert np.isfinite([cell["value"] for cell in results["cells"]]).all()
