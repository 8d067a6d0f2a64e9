"""Values as plans write them: what stands beside a number is understood, or the value is prose."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.lab.plan.inline import split_list
from chunkwise.lab.plan.quantities import amount_words, parse_value, ratio_words
from chunkwise.lab.plan.read import parse, render


@pytest.mark.parametrize(
    ("text", "kind", "value", "unit"),
    [
        ("600B tokens", "quantity", 6e11, "tokens"),
        ("1.2 trillion tokens", "quantity", 1.2e12, "tokens"),
        ("about 600B tokens", "quantity", 6e11, "tokens"),
        ("600B", "number", 6e11, None),
        ("32K", "number", 32_000, None),
        ("1,200", "number", 1200, None),
        ("32,768 tokens", "quantity", 32_768, "tokens"),
        ("1,048,576", "number", 1_048_576, None),
        ("1e-3", "number", 0.001, None),
        ("5×10⁻⁵", "number", 5e-5, None),
        ("10^-4", "number", 1e-4, None),
        ("1½", "number", 1.5, None),
        ("-2.5", "number", -2.5, None),
        ("`4` ", "number", 4, None),
        ("**8**", "number", 8, None),
        ("$k = 4$", "number", 4, None),
        ("one", "number", 1, None),
        ("top-5", "number", 5, None),
        ("Rank = 8", "number", 8, None),
        ("5M passages", "quantity", 5e6, "passages"),
        ("100m tokens", "quantity", 1e8, "tokens"),
        ("7B params", "quantity", 7e9, "parameters"),
        ("2 layers", "quantity", 2, "layers"),
        ("4 neighbors", "quantity", 4, "neighbours"),
        ("fewer (1)", "number", 1, None),
        ("2 GiB", "quantity", 2 * 2**30, "bytes"),
        ("3 GB", "quantity", 3e9, "bytes"),
        # shares
        ("10%", "percent", 0.1, None),
        ("50pct", "percent", 0.5, None),
        ("fifty percent", "percent", 0.5, None),
        ("twenty-five percent", "percent", 0.25, None),
        ("(25%)", "percent", 0.25, None),
        ("scale by 0.25", "multiple", 0.25, None),
        ("down by 25%", "multiple", 0.75, None),
        ("up by 25%", "multiple", 1.25, None),
        ("12.5 % of the database", "percent", 0.125, None),
        ("25 per cent", "percent", 0.25, None),
        ("½", "percent", 0.5, None),
        ("1/8 of the corpus", "percent", 0.125, None),
        ("half", "percent", 0.5, None),
        ("one tenth", "percent", 0.1, None),
        ("two thirds of the data", "percent", 2 / 3, None),
        ("a random 25% subset", "percent", 0.25, None),
        ("reduced to 25%", "percent", 0.25, None),
        # multiples of the baseline
        ("2x", "multiple", 2, None),
        ("x0.5", "multiple", 0.5, None),
        ("2x smaller", "multiple", 0.5, None),
        ("4-fold reduction", "multiple", 0.25, None),
        ("tenfold fewer", "multiple", 0.1, None),
        ("smaller by a factor of 4", "multiple", 0.25, None),
        ("half as many", "multiple", 0.5, None),
        ("twice as small", "multiple", 0.5, None),
        ("halved", "multiple", 0.5, None),
        ("50% of the baseline", "multiple", 0.5, None),
        ("25% less data", "multiple", 0.75, None),
        ("10% reduction", "multiple", 0.9, None),
        ("a quarter less", "multiple", 0.75, None),
        ("reduce by 25%", "multiple", 0.75, None),
        ("25% of the data removed", "multiple", 0.75, None),
        ("-25%", "multiple", 0.75, None),
        ("50% more", "multiple", 1.5, None),
        # changes
        ("2 more layers", "change", 2, "layers"),
        ("+2 layers", "change", 2, "layers"),
        ("100B fewer tokens", "change", -1e11, "tokens"),
        # literals
        ("8x8", "literal", [8, 8], None),
        ("[2, 4]", "literal", [2, 4], None),
        ("(2, 4)", "literal", [2, 4], None),
        ('{"k": 4}', "literal", {"k": 4}, None),
        ("{'k': 4, 'gate': False}", "literal", {"k": 4, "gate": False}, None),
        ("layers 6, 9, 12", "literal", [6, 9, 12], None),
        ("only layer 2", "literal", [2], None),
        ("layers 2-4", "literal", [2, 3, 4], None),
        # lists
        ("1/4/8", "list", ["1", "4", "8"], None),
        ("k ∈ {1, 4, 8}", "list", ["k = 1", "k = 4", "k = 8"], None),
        (r"$k \in \{1, 4\}$", "list", ["k = 1", "k = 4"], None),
        ("25% and 50% less", "list", ["25% less", "50% less"], None),
        ("top-1, 5 and 10", "list", ["top-1", "top-5", "top-10"], None),
        ("0.5, 1 and 2 billion tokens", "list", ["0.5 billion tokens", "1 billion tokens", "2 billion tokens"], None),
        ("600, 300 and 150B tokens", "list", ["600B tokens", "300B tokens", "150B tokens"], None),
        ("10, 25 and 50%", "list", ["10%", "25%", "50%"], None),
        # prose: another amount, several, none, or one of something else
        ("2-8", "prose", None, None),
        ("between 2 and 8", "prose", None, None),
        ("at least 4", "prose", None, None),
        ("less than 25%", "prose", None, None),
        ("no more than 4 neighbours", "prose", None, None),
        ("not 4", "prose", None, None),
        ("600B tokens from Wikipedia", "prose", None, None),
        ("600B tokens (Wikipedia only)", "prose", None, None),
        ("80% code + 20% prose", "prose", None, None),
        ("75% masking / 25% forecasting", "prose", None, None),
        ("80/20 code and prose", "prose", None, None),
        ("0.005m", "prose", None, None),
        ("5g", "prose", None, None),
        ("8/255", "prose", None, None),
        ("32/128", "prose", None, None),
        ("200/75", "prose", None, None),
        ("128,256", "prose", None, None),
        ("k ∈ [1, 8]", "prose", None, None),
        ("32 → 64 → 128", "prose", None, None),
        ("smaller (25%)", "prose", None, None),
        ("100% less", "prose", None, None),
        ("0.5x smaller", "prose", None, None),
        ("the third layer", "prose", None, None),
        ("one mid layer", "prose", None, None),
        ("GPT-2", "prose", None, None),
        ("BM25", "prose", None, None),
        ("1e999", "prose", None, None),
        ("[open('x')]", "prose", None, None),
        ("", "prose", None, None),
    ],
)  # fmt: skip
def test_one_value(text, kind, value, unit):
    found = parse_value(text)
    assert (found.kind, found.unit, found.text) == (kind, unit, text)
    assert found.value == (pytest.approx(value) if isinstance(value, float) else value)


def test_what_is_doubtful_is_noted_and_prose_says_why():
    assert "KiB" in parse_value("32K bytes").note
    assert parse_value("600B tokens").note is None
    assert "Wikipedia only" in parse_value("600B tokens (Wikipedia only)").note
    assert "128256" in parse_value("128,256").note and "mixture" in parse_value("80% a + 20% b").note
    assert "range" in parse_value("2-8").note and "bound" in parse_value("up to 8").note
    assert "unit" in parse_value("0.005m").note


def test_a_remark_that_is_an_amount_waits_for_the_resolver():
    assert parse_value("600B tokens (half of it)").remark == "half of it"
    assert parse_value("4 (default)").remark == "default"


@pytest.mark.parametrize(
    ("text", "value", "origin"),
    [
        ("64 → 32", 32, 64),
        ("64 -> 32 tokens", 32, 64),
        ("reduced from 64 to 32 tokens", 32, 64),
        ("32 instead of 64", 32, 64),
        ("32 tokens (default: 64)", 32, 64),
        ("1.2T → 600B tokens", 6e11, 1.2e12),
        ("100% → 25%", 0.25, 1),
    ],
)
def test_from_the_baseline_to_a_value(text, value, origin):
    found = parse_value(text)
    assert (found.value, found.origin) == (value, origin)


def test_other_words_beside_a_number_are_kept_for_who_knows_the_part():
    assert parse_value("5 retrieved passages").kind == "prose"
    named = parse_value("5 retrieved passages", with_names=True)
    assert (named.kind, named.value, named.unit, named.beside) == ("quantity", 5, "passages", ("retrieved",))
    chunks = parse_value("smaller chunks of 32 tokens", with_names=True)
    assert (chunks.value, chunks.unit, chunks.beside, chunks.direction) == (32, "tokens", ("chunks",), -1)


# --- lists in one line ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("600B, 300B and 150B tokens", ["600B tokens", "300B tokens", "150B tokens"]),
        ("32 or 128 tokens", ["32 tokens", "128 tokens"]),
        ("64 → 32", ["64 → 32"]),
        ("1/4/8", ["1", "4", "8"]),
        ("{1, 4, 8}", ["{1, 4, 8}"]),
        ("[1, 4, 8]", ["[1, 4, 8]"]),
        ("128,256,512", ["128", "256", "512"]),
        ("1,200", ["1,200"]),
        ("50%/25%", ["50%", "25%"]),
        ("300B/600B tokens", ["300B tokens", "600B tokens"]),
        ("1/2", ["1/2"]),
        ("layers 2, 3", ["layers 2, 3"]),
        ("every third layer, layers 2 and 4", ["every third layer", "layers 2 and 4"]),
        ("80% code, 20% prose", ["80% code, 20% prose"]),
        ("50% code / 50% prose", ["50% code / 50% prose"]),
        ("80% code + 20% prose, 50% code + 50% prose", ["80% code + 20% prose", "50% code + 50% prose"]),
        ("random, 50% of the tokens", ["random", "50% of the tokens"]),
        ("a / b", ["a", "b"]),
        ("prepend neighbours (RAG / REPLUG style)", ["prepend neighbours (RAG / REPLUG style)"]),
        ("600B tokens (half), 300B tokens (a quarter)", ["600B tokens (half)", "300B tokens (a quarter)"]),
    ],
)  # fmt: skip
def test_a_line_is_split_into_whole_values(line, values):
    assert split_list(line) == values
    page = f"## Ablation Plan\n### E\n- **Ablated Part**: x\n- **Action**: REPLACE\n- **Replacement**: {line}\n"
    (entry,) = parse(page).entries
    texts = [value.text for value in entry.replacements]
    # A line of words and amounts stays together, and lists them.
    assert texts == values or (texts == [line] and entry.replacements[0].value == values)


@pytest.mark.parametrize("line", ["600B tokens, random subset", "none, 1, 2", "a random subset; 600B tokens"])
def test_amounts_and_words_on_one_line_stay_together(line):
    page = f"## Ablation Plan\n### E\n- **Ablated Part**: x\n- **Action**: REPLACE\n- **Replacement**: {line}\n"
    document = parse(page)
    for entry in (*document.entries, *parse(render(document)).entries):
        (value,) = entry.replacements
        assert (value.text, value.kind, value.value) == (line, "list", split_list(line))


def test_an_item_of_a_list_stays_one_text():
    entry = {"ablated_part": "x", "action": "REPLACE", "replacement": ["600B, 300B and 150B tokens", "{1, 4, 8}"]}
    (entry,) = parse(json.dumps([entry])).entries
    assert [(value.kind, value.value) for value in entry.replacements] == [
        ("list", ["600B tokens", "300B tokens", "150B tokens"]), ("list", ["1", "4", "8"])]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["0,25", "0,125", "0,0001", "12,5%", "12,5 %, 25 %", "2,4", "12,5,25%", "1,2,5e-4", "0,5 or 0,25", "12,500%",
     "1.200,5 tokens"],
)  # fmt: skip
def test_a_decimal_comma_is_refused_and_never_split(text):
    assert split_list(text) == [text]
    value = parse_value(text)
    assert value.kind == "prose" and "list" in value.note


@pytest.mark.parametrize(
    ("text", "values"),
    [("1,4,8", ["1", "4", "8"]), ("16,32,128", ["16", "32", "128"]), ("0.1,0.2", ["0.1", "0.2"]),
     ("1e-4,2e-4", ["1e-4", "2e-4"]), ("25%,50%", ["25%", "50%"]), ("1,200, 2,400", ["1,200", "2,400"]),
     ("layers 2,3", ["layers 2,3"]), ("[1,4]", ["[1,4]"])],
)  # fmt: skip
def test_a_comma_that_separates_is_told_from_one_within_a_number(text, values):
    assert split_list(text) == values


@pytest.mark.parametrize(
    "text",
    ["0.5, 25%", "0.5 or 25%", "0.1, 0.5, 100%", "2, 50%", "0.25/75%", "1, 2x", "1 and 4 times", "1, 3e-4", "1 or 2e-4",
     "600, 1.2T tokens", "500, 1K steps", "600B, 300 tokens", "600; 300B tokens"],
)  # fmt: skip
def test_a_sign_or_a_scale_that_may_not_hold_for_all_is_refused(text):
    assert split_list(text) == [text]
    value = parse_value(text)
    assert value.kind == "prose" and value.note


@pytest.mark.parametrize(
    ("text", "values"),
    [("600B, 25%", ["600B", "25%"]), ("4 ; 25%", ["4", "25%"]), ("1; 2x", ["1", "2x"]),
     ("1e-4, 50 steps", ["1e-4", "50 steps"]), ("0.6, 0.3T tokens", ["0.6T tokens", "0.3T tokens"]),
     ("25 and 50%", ["25%", "50%"]), ("2x and 4x", ["2x", "4x"])],
)  # fmt: skip
def test_values_of_two_notations_keep_their_own(text, values):
    assert split_list(text) == values


# --- direction: the signed value or prose ---------------------------------------------------------------------------

LESS = [
    "less",
    "fewer",
    "smaller",
    "lower",
    "shorter",
    "reduced",
    "decreased",
    "removed",
    "off",
    "reduction",
    "decrease",
    "cut",
    "dropped",
    "shallower",
]
MORE = [
    "more",
    "larger",
    "bigger",
    "higher",
    "longer",
    "deeper",
    "increase",
    "increased",
    "additional",
    "extra",
    "added",
    "wider",
    "growth",
]
NOUNS = ["", " data", " tokens", " of the data", " neighbours", " layers", " chunks", " of the database", " Wikipedia"]
FORMS = ["{n} {way}{noun}", "{n}{noun} {way}", "{way} by {n}{noun}", "{way} of {n}{noun}", "a {n} {way} in size{noun}",
         "{way}{noun} ({n})", "{n} {way}{noun} than the baseline", "{way}: {n}{noun}", "{way} {n}{noun}"]  # fmt: skip
SHARES = st.integers(1, 99).map(lambda n: (f"{n}%", n / 100)) | st.sampled_from(
    [("half", 1 / 2), ("a quarter", 1 / 4), ("1/8", 1 / 8), ("one tenth", 1 / 10), ("two thirds", 2 / 3), ("¾", 3 / 4)]
)
MULTIPLES = st.integers(2, 50).map(lambda n: (f"{n}x", n)) | st.sampled_from(
    [("2.5x", 2.5), ("4-fold", 4), ("tenfold", 10), ("3 times", 3), ("×8", 8), ("a factor of 4", 4)]
)


@given(SHARES, st.sampled_from(LESS + MORE), st.sampled_from(NOUNS), st.sampled_from(FORMS))
def test_a_share_with_a_direction_is_signed_or_prose(share, way, noun, form):
    words, number = share
    found = parse_value(form.format(n=words, way=way, noun=noun), with_names=True)
    signed = 1 - number if way in LESS else 1 + number
    assert found.kind == "prose" or (found.kind == "multiple" and found.value == pytest.approx(signed))


@given(MULTIPLES, st.sampled_from(LESS + MORE), st.sampled_from(NOUNS), st.sampled_from(FORMS))
def test_a_multiple_with_a_direction_is_signed_or_prose(multiple, way, noun, form):
    words, number = multiple
    found = parse_value(form.format(n=words, way=way, noun=noun), with_names=True)
    signed = 1 / number if way in LESS else number
    assert found.kind == "prose" or (found.kind == "multiple" and found.value == pytest.approx(signed))


@given(st.integers(1, 10**6), st.sampled_from(LESS + MORE), st.sampled_from(NOUNS), st.sampled_from(FORMS))
def test_a_number_with_a_direction_is_a_change_or_claims_it(number, way, noun, form):
    found = parse_value(form.format(n=number, way=way, noun=noun), with_names=True)
    sign = -1 if way in LESS else 1
    is_change = found.kind == "change" and found.value == sign * number
    is_target = found.kind in ("number", "quantity") and (found.value, found.direction) == (number, sign)
    assert found.kind == "prose" or is_change or is_target


def test_the_plain_forms_of_a_direction_are_read_and_not_only_refused():
    for way in LESS:
        assert parse_value(f"25% {way}").value == 0.75 and parse_value(f"4x {way}").value == 0.25
    for way in MORE:
        assert parse_value(f"25% {way}").value == 1.25 and parse_value(f"4x {way}").value == 4


@given(
    SHARES | MULTIPLES, st.sampled_from(["Wikipedia", "code", "moons", "in-domain", "of C4", "per query", "masking"])
)
def test_words_that_nobody_explains_make_prose(amount, words):
    assert parse_value(f"{amount[0]} {words}").kind == "prose"


def test_the_values_of_the_documentation_are_read_as_it_says():
    page = (Path(__file__).parents[2] / "docs" / "plans.md").read_text(encoding="utf-8")
    section = page.split("## How values are read")[1].split("\n## ")[0]
    table, refused = section.split("Refused:")
    examples = [text for line in table.splitlines() for text in re.findall(r"`(.+?)`", line.split(" | ")[0])]
    kinds = {text: parse_value(text).kind for text in examples if text != "plan check"}
    assert len(kinds) > 25 and "prose" not in kinds.values()
    assert {parse_value(text).kind for text in re.findall(r"`(.+?)`", refused)} == {"prose"}


# --- totality -------------------------------------------------------------------------------------------------------


@given(st.text() | st.text("0123456789%x,./→-{}[]() BMKkm∈and", max_size=40))
def test_nothing_raises(text):
    assert parse_value(text).text == text
    assert parse_value(text, with_names=True).text == text
    assert "".join(split_list(text)).strip() == "" or split_list(text)


HOSTILE = ["[" * 3000, "(" * 70 + ")" * 70, "[" + "-" * 3000 + "1]", "9" * 3999, "{" + "'a':{" * 500, "1/" * 2000,
           "1, " * 2000, "from " * 1000 + "1 to 2", "→" * 3000, "%" * 3000, "layers " + "1, " * 1300,
           "1 and " * 60]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_prose(text):
    assert parse_value(text).kind == "prose"


def test_words_for_numbers():
    assert [ratio_words(ratio) for ratio in (0.5, 0.125, 2, 0.3, 1 / 12_000)] == ["1/2", "1/8", "2", "3/10", "8.33e-05"]
    assert [amount_words(value) for value in (1.2e12, 6e11, 64, 1500)] == ["1.2T", "600B", "64", "1.5K"]
