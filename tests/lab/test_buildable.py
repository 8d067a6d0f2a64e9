"""Arms that a base cannot have: refused before anything runs, with the base's own numbers."""

import json
import subprocess
import sys

import pytest

from chunkwise.core import packs
from chunkwise.core.errors import ConfigError
from chunkwise.core.io import write_json
from chunkwise.lab.plan.read import parse
from chunkwise.lab.profile import load_profile
from chunkwise.lab.resolve.arms.buildable import base_facts, obstacle, unchecked
from chunkwise.lab.resolve.arms.plan import resolve
from tests.lab.test_resolve import make_profile

PACKAGED = "laptop-copying"  # the decoder's first layers as encoder; its base has 4 layers, 128 wide, 2,048 positions
COPIED = {"retro": {"encoder": "decoder", "query_conditioning": False}, "train": {"steps": 2}}
SMALL = {"decoder": {"width": 48, "layers": 3, "heads": 4, "max_tokens": 300}, "train": {"steps": 4}}


def rows_of(profile, part, *replacements, action="REPLACE"):
    entry = {"name": "E", "ablated_part": part, "action": action, "replacement": list(replacements)}
    (entry,) = resolve(parse(json.dumps([entry | {"metrics": ["perplexity"]}])), profile).entries
    return entry.replacements


@pytest.mark.parametrize(
    ("part", "words", "numbers"),
    [
        (
            "CCA layers",
            "layer 5",
            "no layer 5: the packaged base has 4 layers, counted from 1; write numbers from 1 to 4",
        ),
        ("CCA layers", "layers 0, 4", "no layer 0: the packaged base has 4 layers"),
        (
            "encoder depth",
            "5 layers",
            "5 layers cannot be copied from the packaged base, which has 4; write 4 or fewer",
        ),
        ("context length", "3072", "rows are 3,072 tokens long, and the packaged base reads 2,048 positions"),
        ("context length", "64", "the longest row has 64 tokens"),
        ("number of neighbours", "0", "with 0 neighbours nothing is retrieved; write REMOVE of chunk-wise"),
    ],
)
def test_what_the_packaged_base_cannot_have_is_refused_with_its_numbers(part, words, numbers):
    (row,) = rows_of(load_profile(PACKAGED), part, words)
    assert row.arm is None and row.status in ("infeasible", "unresolved")
    assert numbers in row.message and len(row.message) <= 200


@pytest.mark.parametrize(
    ("part", "words"), [("CCA layers", "layer 4"), ("encoder depth", "4 layers"), ("context length", "2048")]
)
def test_what_just_fits_is_an_arm(part, words):
    (row,) = rows_of(load_profile(PACKAGED), part, words)
    assert row.status == "resolved" and row.arm not in (None, "baseline")


def test_an_arm_that_is_left_out_and_impossible_is_called_impossible():
    possible, impossible = rows_of(load_profile("laptop"), "CCA layers", "layer 3", "layer 9")
    assert possible.status == "left-out"
    assert impossible.status == "infeasible" and "has 4 layers" in impossible.message


@pytest.mark.parametrize("words", ["layer -1", "layers 4-2", "layer 2.5"])
def test_a_number_that_is_no_layer_is_not_read_as_another_one(words):
    (row,) = rows_of(load_profile(PACKAGED), "CCA layers", words)
    assert row.arm is None and row.status == "unresolved"


def test_a_new_encoder_may_be_deeper_than_the_decoder():
    (row,) = rows_of(load_profile("laptop"), "encoder depth", "8 layers")
    assert row.status == "resolved"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retrofit.retro.cca_layers": [1, 4]}, "no layer 4: the profile's base has 3 layers"),
        ({"retrofit.retro.cca_layers": [0, 4, 5]}, "no layers 0, 4, 5: "),
        ({"retrofit.retro.cca_heads": 5}, "5 heads of cross-attention do not divide the width 48 of the profile's"),
        ({"retrofit.retro.encoder_heads": 5}, "5 heads of the encoder do not divide its width 48 evenly"),
        ({"retrofit.retro.encoder_heads": 48}, "write one of 1, 2, 3, 4, 6, 8, 12, 24"),  # rotary: even widths
        ({"retrofit.retro.encoder_width": 33}, "an encoder 33 wide has no even heads"),
        ({"training_text.sequence_tokens": 320}, "rows are 320 tokens long, and the profile's base reads 300"),
        ({"evaluation_text.sequence_tokens": 320}, "evaluation rows are 320 tokens long"),
        ({"evaluation_text.sequence_tokens": 64}, "evaluation rows of 64 tokens hold one chunk of 64"),
        ({"mechanism": "in_prompt"}, "rows of 128 tokens with 2 neighbours of each chunk in them are 385 tokens long"),
        ({"retrofit.retro.neighbours": 60}, "60 neighbours of a chunk are read, and the table of them keeps 50"),
        ({"evaluation_neighbours": 60}, "set neighbours.K to 60 or more"),
        ({"qa.passages": 60}, "set question_neighbours.K to 60 or more"),
        ({"qa.prompt_tokens": 290}, "prompts with their answers are 322 tokens long"),
        ({"retrofit.retro.chunk_alignment": "right"}, "aligned to the end of the text need whole texts"),
        ({"mechanism": "in_prompt", "retrofit.retro.neighbours": 0}, "with 0 neighbours nothing is retrieved"),
    ],
)  # fmt: skip
def test_what_an_own_base_cannot_have(changes, message):
    profile = make_profile(
        base=SMALL,
        training_text={"sequence_tokens": 128},
        evaluation_text={"sequence_tokens": 128, "split": "valid", "layout": "documents"},
        neighbours={"K": 50},
        question_neighbours={"K": 50},
    )
    assert obstacle(profile) == ""
    assert message in obstacle(profile.changed(changes))


def test_questions_bind_only_a_study_that_asks_them():
    profile = make_profile(base=SMALL).changed({"qa.prompt_tokens": 290})
    assert "prompts with their answers" in obstacle(profile, questions=True)
    assert obstacle(profile, questions=False) == ""
    right = make_profile(base=SMALL).changed({"retrofit.retro.chunk_alignment": "right"})
    assert obstacle(right, questions=False) == ""


def test_the_arm_of_another_base_is_held_against_that_base():
    profile = make_profile(base=SMALL, retrofit=COPIED)
    deeper = {"base.decoder.layers": 8, "retrofit.retro.encoder_layers": 8}
    assert obstacle(profile.changed(deeper)) == ""
    assert "cannot be copied" in obstacle(profile.changed({"retrofit.retro.encoder_layers": 8}))


def test_a_profile_that_cannot_be_built_is_refused_as_such():
    profile = make_profile(base=SMALL).changed({"retrofit.retro.cca_layers": [9]})
    with pytest.raises(ConfigError, match="profile test cannot be built: no layer 9: the profile's base has 3 layers"):
        rows_of(profile, "encoder depth", "1")


@pytest.mark.parametrize(
    ("config", "layers", "positions"),
    [
        ({"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 9, "n_positions": 77}, 2, 77),
        (
            {"model_type": "odd", "text_config": {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 5,
             "vocab_size": 9, "max_position_embeddings": 33}}, 5, 33,
        ),
        ({"model_type": "mpt", "d_model": 8, "n_heads": 2, "n_layers": 3, "vocab_size": 9}, 3, None),
    ],
)  # fmt: skip
def test_a_folder_is_known_by_its_config(tmp_path, config, layers, positions):
    write_json(tmp_path / "config.json", config)
    facts = base_facts(make_profile(base=None, pretrained=str(tmp_path)))
    assert (facts.sizes.layers, facts.positions) == (layers, positions)
    assert facts.name == f"the base {tmp_path.name}"


def test_a_base_in_the_hubs_cache_is_known_and_one_elsewhere_is_said_to_be_unknown(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    profile = make_profile(base=None, pretrained="some/decoder")
    assert base_facts(profile) is None and "'some/decoder' is not on this machine" in unchecked(profile)
    (row,) = rows_of(profile, "CCA layers", "layer 9")
    assert row.status == "resolved"  # nobody knows; the run fetches the base, and asks again
    folder = tmp_path / "models--some--decoder"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    write_json(
        folder / "snapshots" / "abc" / "config.json",
        {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 9, "n_positions": 1024},
    )
    assert unchecked(profile) == ""
    (row,) = rows_of(profile, "CCA layers", "layer 9")
    assert row.status == "infeasible" and "has 2 layers" in row.message


def test_a_larger_tokenizer_than_the_base_knows_is_refused(tmp_path):
    vocabulary = {f"t{number}": number for number in range(5000)}
    write_json(tmp_path / "tokenizer.json", {"model": {"vocab": vocabulary}, "added_tokens": [{"content": "<end>"}]})
    profile = load_profile(PACKAGED).changed({"tokenizer.pretrained": str(tmp_path)})
    assert "a tokenizer of 5,001 tokens, and the packaged base knows 4,096" in obstacle(profile)


def test_no_torch_is_imported_to_say_so(tmp_path):
    plan = tmp_path / "plan.md"
    plan.write_text(
        "# A plan\n## Ablation Plan\n### L\n- **Ablated Part**: CCA layers\n- **Action**: REPLACE\n"
        "- **Replacement**: layer 9, layer 1\n- **Metrics**: perplexity\n"
    )
    script = (
        "import sys\nfrom chunkwise.cli.main import main\n"
        f"call = ['ablate', {str(plan)!r}, '--profile', '{PACKAGED}', '--dry-run', '--store', {str(tmp_path)!r}]\n"
        "code = main(call)\n"
        "heavy = {'torch', 'transformers', 'scipy', 'pyarrow'} & sys.modules.keys()\n"
        "print(code, heavy or 'light')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "no layer 9: the packaged base has 4 layers" in done.stdout
    assert "Estimated time: about" in done.stdout
    assert done.stdout.splitlines()[-1] == "3 light", done.stderr


def test_a_missing_packaged_base_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(packs, "PACKS", tmp_path)
    with pytest.raises(ConfigError, match="this installation has none"):
        obstacle(make_profile(base=None, pretrained="packaged"))
