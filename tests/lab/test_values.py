"""Values against the baseline: the signed value in full words, or a refusal that says why."""

import functools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.lab.plan.read import parse
from chunkwise.lab.profile import Profile, load_profile
from chunkwise.lab.resolve.arms.plan import resolve
from chunkwise.lab.resolve.arms.reading import Unclear
from chunkwise.lab.resolve.arms.values import Interpreter
from chunkwise.lab.resolve.arms.wording import change_words
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.paper import load_paper

SIZE, CHUNK, COUNT = "retrieval database size", "chunk size", "number of neighbours"
NOISE, RATE, LORA = "random neighbours in training", "learning rate of the retrofit", "LoRA rank"
REGISTRY, PAPER = Registry(Profile), load_paper("instructretro")


@functools.cache
def profile(*settings: str) -> Profile:
    return load_profile("laptop", settings)


def entry_of(part: str, *replacements: str, action: str = "REPLACE"):
    values = {"ablated_part": part, "action": action, "replacement": list(replacements), "metrics": ["perplexity"]}
    return parse(json.dumps([values])).entries[0]


def readings(part: str, *replacements: str, settings=(), action: str = "REPLACE") -> list[dict | str]:
    """What each value changes, or why it is refused."""
    entry = entry_of(part, *replacements, action=action)
    components = REGISTRY.match(part).components
    assert components, f"{part} is no component"
    interpreter = Interpreter(profile(*settings), PAPER, REGISTRY, components, {})
    results: list[dict | str] = []
    for value in interpreter.requests(entry):
        try:
            results.append(interpreter.read(entry, value).changes)
        except Unclear as unclear:
            results.append(str(unclear))
    return results


def one(part: str, words: str, settings=()):
    """The single number that the words give, None where they are refused."""
    (result,) = readings(part, words, settings=settings)
    if isinstance(result, str):
        return None
    (number,) = set(result.values())  # the chunk length stands in two places
    return number


QUARTER = ("view.fraction=0.25",)
NOISY = ("retrofit.random_neighbours=0.4",)
RANKED = ("retrofit.lora=8",)


@pytest.mark.parametrize(
    ("part", "words", "settings", "value"),
    [
        # shares and changes of the datastore, with room above the baseline and without
        (SIZE, "25% less data", (), 0.75),
        (SIZE, "25% smaller", (), 0.75),
        (SIZE, "10% reduction", (), 0.9),
        (SIZE, "10x smaller", (), 0.1),
        (SIZE, "one tenth", (), 0.1),
        (SIZE, "half as many tokens", (), 0.5),
        (SIZE, "remove 25% of the data", (), 0.75),
        (SIZE, "25% of the retrieval corpus", (), 0.25),
        (SIZE, "300B fewer tokens", (), 0.75),
        (SIZE, "1.2T → 300B tokens", (), 0.25),
        (SIZE, "600B tokens (half of it)", (), 0.5),
        (SIZE, "2x smaller", QUARTER, 0.125),
        (SIZE, "4x fewer tokens", QUARTER, 0.0625),
        (SIZE, "50%", QUARTER, 0.125),
        (SIZE, "50% more", QUARTER, 0.375),
        (SIZE, "twice as large", QUARTER, 0.5),
        (SIZE, "600B tokens", QUARTER, 0.125),
        # hyper-parameters
        (CHUNK, "2x smaller", (), 32),
        (CHUNK, "half", (), 32),
        (CHUNK, "64 → 32", (), 32),
        (CHUNK, "32 (default: 64)", (), 32),
        (CHUNK, "smaller chunks (32 tokens)", (), 32),
        (CHUNK, "m = 32", (), 32),
        (CHUNK, "32 tokens per chunk", (), 32),
        (CHUNK, "32 tokens (half)", (), 32),
        (CHUNK, "doubled", (), 128),
        (COUNT, "2x fewer", (), 1),
        (COUNT, "top-5", (), 5),
        (COUNT, "5 passages", (), 5),
        (COUNT, "one", (), 1),
        (COUNT, "2 more neighbours", (), 4),
        (COUNT, "fewer neighbours (1)", (), 1),
        (COUNT, "2 (baseline)", (), 2),
        ("encoder depth", "50% fewer layers", (), 1),
        ("encoder depth", "twice as deep", (), 4),
        ("encoder depth", "8-layer encoder", (), 8),
        (RATE, "10x lower", (), 5e-5),
        (RATE, "5×10⁻⁵", (), 5e-5),
        (RATE, "5e-4 → 1e-4", (), 1e-4),
        (LORA, "Rank = 8", (), 8),
        (LORA, "rank 16", (), 16),
        (LORA, "r=8", RANKED, 8),
        (LORA, "4x smaller", RANKED, 2),
        ("context length", "2x longer", (), 512),
        ("context length", "4096 → 128 tokens", (), 128),
        ("warm-up of the continued training", "half", (), 10),
        ("encoder width", "half", (), 64),
        # a share between 0 and 1 is itself; a multiple is one of the baseline
        (NOISE, "50%", NOISY, 0.5),
        (NOISE, "half", NOISY, 0.5),
        (NOISE, "0.3", NOISY, 0.3),
        (NOISE, "half of the baseline", NOISY, 0.2),
        (NOISE, "2x", NOISY, 0.8),
        ("encoder dropout", "10%", (), 0.1),
        ("encoder dropout", "1/10", (), 0.1),
    ],
)
def test_a_value_is_read_with_all_that_stands_beside_it(part, words, settings, value):
    assert one(part, words, settings) == pytest.approx(value)


@pytest.mark.parametrize(
    ("part", "words", "settings", "reason"),
    [
        (SIZE, "80% in-domain + 20% OOD", (), "mixture"),
        ("retrieval database size and composition", "80% code + 20% prose", (), "sources by shares"),
        (SIZE, "600B tokens (Wikipedia only)", (), "Wikipedia only"),
        (SIZE, "600B tokens (25%)", (), "gives view.fraction = 0.5, .*gives 0.25"),
        (SIZE, "600B tokens from Wikipedia", (), "'from wikipedia'"),
        (SIZE, "25% of the training corpus", (), "'training'"),
        (SIZE, "50% more", (), "more data than the corpus holds"),
        (SIZE, "600B → 300B tokens", (), "starts from 1/2 of the baseline"),
        (SIZE, "5M passages", (), "in passages is not known"),
        (SIZE, "no more than 50%", (), "bound"),
        (SIZE, "10% to 50%", (), "range"),
        (SIZE, "a smaller one", (), "names no amount"),
        (SIZE, "the most recent half", (), "'most recent'"),
        (SIZE, "25% of 600B tokens", (), "several amounts"),
        (SIZE, "12,5%", (), "decimal number or a list"),
        (NOISE, "0,25", (), "decimal number or a list"),
        (RATE, "0,0001", (), "decimal number or a list"),
        (RATE, "1", (), "2,000 times the baseline's"),
        (COUNT, "2 in training", (), "beside its number"),
        ("warm-up of the continued training", "10% of the steps", (), "all steps"),
        ("warm-up of the continued training", "10% of training", (), "all steps"),
        ("context length", "4096 → 1024 tokens", (), "less than the paper's 4096"),
        (CHUNK, "larger chunks (32 tokens)", (), "more than the baseline in words"),
        (CHUNK, "128 → 32", (), "starts from 128"),
        (CHUNK, "1/2", (), "two values"),
        (CHUNK, "128,256", (), "128256"),
        (CHUNK, "25% fewer layers", (), "not in layers"),
        (CHUNK, "32 layers", (), "not in layers"),
        (COUNT, "no more than 4 neighbours", (), "bound"),
        (COUNT, "4 (baseline)", (), "gives 2"),
        (COUNT, "4 at evaluation", (), "'evaluation'"),
        (COUNT, "remove one neighbour from each", (), ""),
        (NOISE, "25% less", NOISY, "0.3 or, in points, 0.15"),
        ("encoder dropout", "2x", (), "has 0"),
        (LORA, "2x", (), "has no number"),
        (LORA, "k = 8", (), "'k'"),
        ("model size", "half", (), "no section 'base'"),
        ("pretraining tokens of the base", "550B tokens", (), "no section 'base'"),
        ("CCA layers", "all layers but one", (), "no option"),
        ("encoder depth", "no more than the baseline", (), ""),
    ],
)
def test_what_is_not_understood_whole_is_refused(part, words, settings, reason):
    (result,) = readings(part, words, settings=settings)
    assert isinstance(result, str), f"{words!r} became {result}"
    assert re.search(reason, result), result


def test_lists_become_several_arms():
    assert readings(COUNT, "1/4/8") == readings(COUNT, "k ∈ {1, 4, 8}") == readings(COUNT, "1", "4", "8")
    assert [change["view.fraction"] for change in readings(SIZE, "600B, 300B and 150B tokens")] == [0.5, 0.25, 0.125]
    assert [change["datastore.chunk_tokens"] for change in readings(CHUNK, "32 or 128 tokens")] == [32, 128]
    assert [change["view.fraction"] for change in readings(SIZE, "25% and 50% less")] == [0.75, 0.5]


def test_an_encoder_as_wide_as_the_decoder_is_the_baseline():
    assert readings("encoder width", "the decoder's", "1x") == [{"retrofit.retro.encoder_width": None}] * 2


def test_a_comma_within_whole_numbers_separates():
    assert readings(COUNT, "1,4") == readings(COUNT, "1", "4")
    assert isinstance(readings(RATE, "1,4")[0], str)


@pytest.mark.parametrize(
    ("part", "words", "settings"),
    [(SIZE, "50%", ()), (SIZE, "100B tokens", ()), (COUNT, "2", ()), ("encoder depth", "1", ()), (RATE, "1e-4", ()),
     ("warm-up of the continued training", "20 steps", ()), ("composition of the datastore", "prose", ()),
     ("CCA layers", "layer 1", ("retrofit.retro.cca_layers=middle",))],
)  # fmt: skip
def test_an_added_value_that_may_be_the_whole_is_refused(part, words, settings):
    (reason,) = readings(part, words, settings=settings, action="ADD")
    assert isinstance(reason, str) and re.search("ADD .* may be .*REPLACE", reason), reason


def test_what_is_added_is_added():
    layers = ("retrofit.retro.cca_layers=[2,4]",)
    assert readings("CCA layers", "layer 1", settings=layers, action="ADD") == [
        {"retrofit.retro.cca_layers": [1, 2, 4]}
    ]
    assert readings("encoder depth", "1 more", action="ADD") == [{"retrofit.retro.encoder_layers": 3}]
    assert readings(SIZE, "50% more", settings=QUARTER, action="ADD") == [{"view.fraction": 0.375}]
    assert readings(LORA, "8", action="ADD") == [{"retrofit.lora": 8}]


@pytest.mark.parametrize(("action", "words", "runs"), [("reduce", "4", False), ("reduce", "1", True),
                                                      ("increase", "4", True), ("increase", "1", False)])  # fmt: skip
def test_an_action_that_names_a_direction_is_held_against_the_value(action, words, runs):
    page = (f"## Ablation Plan\n### E\n- **Ablated Part**: {COUNT}\n- **Action**: REPLACE ({action})\n"
            f"- **Replacement**: {words}\n")  # fmt: skip
    (row,) = resolve(parse(page), profile()).entries[0].replacements
    assert (row.status == "resolved") == runs and ("the action asks for" in row.message) != runs


def test_a_grid_and_numbers_of_layers_are_no_counts():
    assert all(isinstance(result, str) for result in readings(COUNT, "2 x 4", "layers 2, 3", "8x8"))
    assert readings(COUNT, "[1, 4]") == readings(COUNT, "(1, 4)") == readings(COUNT, "1", "4")


def test_an_option_is_its_words_and_those_of_the_part():
    placements = readings("CCA layers", "every third layer", "one mid layer only", "mid layer", "the third layer")
    assert [result["retrofit.retro.cca_layers"] for result in placements[:3]] == ["retro", "middle", "middle"]
    assert isinstance(placements[3], str)
    sources = readings("what cross-attention reads", "random", "random neighbours", "random chunks at evaluation")
    assert sources[0] == sources[1] == {"retrofit.neighbour_source": "random"} and isinstance(sources[2], str)


def test_layers_are_a_placement_below_cross_attention_too():
    assert readings("chunk-wise cross-attention", "layers 2, 3") == [{"retrofit.retro.cca_layers": [2, 3]}]
    assert readings("CCA layers", "layers 2-4") == [{"retrofit.retro.cca_layers": [2, 3, 4]}]


def test_what_evaluation_reads_as_trained_is_the_baseline():
    entry = entry_of("number of neighbours at evaluation", "2", "2x")
    rows = resolve(parse(json.dumps([{"ablated_part": entry.ablated_part, "action": "REPLACE",
                                      "replacement": ["2", "2x"]}])), profile()).entries[0].replacements  # fmt: skip
    assert [row.arm for row in rows] == ["baseline", "evaluation-neighbours-4"]


# --- in full words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "words", "settings", "says"),
    [
        (SIZE, "25% less data", (), "a quarter less: 3/4 of the datastore, about 10.6M tokens"),
        (SIZE, "600B tokens", (), "1/2 of the paper's 1.2T tokens: 1/2 of the datastore, about 7.04M tokens"),
        (SIZE, "50% more", QUARTER, "half more: 3/8 of the datastore, about 5.28M tokens"),
        (CHUNK, "half", (), "chunk length: 32 tokens, half as much, where the baseline has 64"),
        (COUNT, "top-5", (), "neighbours per chunk: 5 neighbours, where the baseline has 2"),
        (COUNT, "one", (), "neighbours per chunk: 1 neighbour, where the baseline has 2"),
        (NOISE, "50%", NOISY, "random neighbours in training: 0.5, where the baseline has 0.4"),
    ],
)
def test_an_arm_says_in_full_words_what_is_run(part, words, settings, says):
    plan = parse(json.dumps([{"ablated_part": part, "action": "REPLACE", "replacement": [words]}]))
    (arm,) = resolve(plan, profile(*settings)).arms.values()
    assert arm.says == says


def test_changes_in_words():
    ratios = (0.75, 0.9, 0.5, 0.25, 2, 1.5, 3, 0.7, 1)
    assert [change_words(ratio) for ratio in ratios] == [
        "a quarter less", "a tenth less", "half as much", "a quarter", "twice as much", "half more", "3 times as much",
        "7/10", "as much"]  # fmt: skip


# --- direction, for every setting -----------------------------------------------------------------------------------

LESS, MORE = ["less", "fewer", "smaller", "lower", "reduction"], ["more", "larger", "higher", "increase"]
BASELINES = [  # part, a word for it, settings, the baseline's number
    (SIZE, "data", QUARTER, 0.25),
    (SIZE, "tokens", ("view.fraction=0.5",), 0.5),
    (CHUNK, "tokens", (), 64),
    (COUNT, "neighbours", (), 2),
    ("encoder depth", "layers", (), 2),
    (RATE, "", (), 5e-4),
    (LORA, "", RANKED, 8),
    (NOISE, "neighbours", NOISY, 0.4),
]


@given(
    st.sampled_from(BASELINES),
    st.sampled_from(LESS + MORE),
    st.sampled_from([("25%", 0.25), ("half", 0.5), ("50%", 0.5), ("a quarter", 0.25), ("10%", 0.1), ("2x", None),
                     ("4x", None), ("10 times", None)]),
    st.sampled_from(["{amount} {way} {noun}", "{way} by {amount}", "{amount} {way} than the baseline"]),
)  # fmt: skip
def test_a_direction_is_signed_against_the_baseline_or_refused(setting, way, amount, form):
    part, noun, settings, baseline = setting
    words, share = amount
    number = one(part, form.format(amount=words, way=way, noun=noun).strip(), settings)
    if share is None:
        factor = float(words.split()[0].rstrip("x"))
        signed = baseline / factor if way in LESS else baseline * factor
    else:
        signed = baseline * (1 - share if way in LESS else 1 + share)
    assert number is None or number == pytest.approx(signed)
