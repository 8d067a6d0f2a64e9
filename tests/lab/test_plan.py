"""The plan reader: one plan in many forms, what it says about bad plans, and that nothing makes it raise."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chunkwise.core.errors import PlanError
from chunkwise.lab.plan.read import PlanDocument, check, parse, render, split_list

PLAIN = """\
# planner-x/model_y/Some_Paper__on_Retrieval

## 🧠 Reasoning Trace

Retrieval costs “time”, so a < b matters – the naïve reader asks 1) what & why.

It has two paragraphs.

## 📋 Ablation Plan

### Size of the store
- **Ablated Part**: retrieval database size
- **Action**: REPLACE
- **Replacement**:
  - 600B tokens
  - ½ of it
- **Metrics**: perplexity, accuracy (EM, F1)

### Without it
- **Ablated Part**: cross-attention
- **Action**: REMOVE
- **Metrics**: perplexity
"""


def misread(text: str) -> str:
    """UTF-8 read as windows-1252, the way broken pages come about."""
    return "".join(bytes([b]).decode("cp1252") if b not in b"\x81\x8d\x8f\x90\x9d" else chr(b) for b in text.encode())


def as_html(text: str) -> str:
    head, plan = text.split("## 📋 Ablation Plan\n")
    title, trace = head.split("## 🧠 Reasoning Trace\n")
    return (
        "<style>\n.box strong { color: #111 !important; }\n</style>\n<!-- made by\na script -->\n"
        f'{title}<div style="padding: 2px;" class="box">\n<h2 style="color: red;">🧠 Reasoning Trace</h2>\n'
        f"{trace.replace('what & why', 'what &amp; why')}</div>\n"
        f'<div class="box">\n<h2>📋 Ablation Plan</h2>\n{plan}\n</div>'
    )


def as_list_html(text: str) -> str:
    """The entries as real HTML lists."""
    entries = []
    for entry in parse(text).entries:
        items = "".join(f"<li>{value.text}</li>" for value in entry.replacements)
        entries.append(
            f"<h3>{entry.name}</h3><ul><li><strong>Ablated Part</strong>: {entry.ablated_part}</li>"
            f"<li><b>Action:</b> {entry.action}</li>"
            + (f"<li><strong>Replacement</strong>:<ul>{items}</ul></li>" if items else "")
            + f"<li><strong>Metrics</strong>: {entry.metrics_text}</li></ul>"
        )
    return "<h2>Ablation Plan</h2>" + "".join(entries)


def objects(text: str) -> list[dict]:
    return [
        {
            "name": entry.name,
            "ablated_part": entry.ablated_part,
            "action": entry.action.lower(),
            "replacement": [value.text for value in entry.replacements],
            "metrics": list(entry.metrics),
        }
        for entry in parse(text).entries
    ]


def as_yaml(text: str) -> str:
    lines = ["entries:"]
    for entry in parse(text).entries:
        lines += [f"- name: {entry.name}", f"  ablated part: {entry.ablated_part}", f"  action: {entry.action}"]
        if entry.replacements:
            lines += ["  replacements:", *(f"  - {value.text}" for value in entry.replacements)]
        lines.append(f"  metrics: {entry.metrics_text}")
    return "\n".join(lines)


def test_the_page_form_is_read_field_by_field():
    document = parse(PLAIN)
    assert (document.planner, document.model, document.paper_id) == ("planner-x", "model_y", "Some_Paper__on_Retrieval")
    assert document.trace.startswith("Retrieval costs “time”, so a < b") and document.trace.endswith("two paragraphs.")
    size, without = document.entries
    assert (size.name, size.action, size.lines) == ("Size of the store", "REPLACE", (11, 17))
    assert [(value.kind, value.value, value.unit) for value in size.replacements] == [
        ("quantity", 6e11, "tokens"),
        ("percent", 0.5, None),
    ]
    assert size.metrics == ("perplexity", "accuracy (EM, F1)")  # commas in brackets do not split
    assert (without.ablated_part, without.action, without.replacements) == ("cross-attention", "REMOVE", ())
    assert document.diagnostics == () and document.exit_code == 0


WHOLE_FORMS = {
    "mojibake": misread(PLAIN),
    "double mojibake": misread(misread(PLAIN)),
    "CRLF": PLAIN.replace("\n", "\r\n"),
    "BOM": "\ufeff" + PLAIN,
    "HTML": as_html(PLAIN),
    "HTML and mojibake": misread(as_html(PLAIN)),
    "emoji-less": PLAIN.replace("🧠 ", "").replace("📋 ", ""),
    "rendered": render(parse(PLAIN)),
    "colon inside the bold": PLAIN.replace("**:", ":**"),
    "underscored labels": PLAIN.replace("Ablated Part", "ablated_part"),
    "numbered bullets": PLAIN.replace("\n- ", "\n1. ").replace("\n  - ", "\n  2. "),
    "unbold": PLAIN.replace("**", ""),
}
ENTRY_FORMS = {
    "JSON lines": "\n".join(json.dumps(entry) for entry in objects(PLAIN)),
    "JSON array": json.dumps(objects(PLAIN), indent=2),
    "own JSON": json.dumps({"entries": objects(PLAIN)}),
    "own YAML": as_yaml(PLAIN),
    "JSON lines in a fence": "## Ablation Plan\n\n```json\n" + "\n".join(map(json.dumps, objects(PLAIN))) + "\n```\n",
    "HTML lists": as_list_html(PLAIN),
}


@pytest.mark.parametrize("form", WHOLE_FORMS)
def test_every_form_of_the_page_gives_one_document(form):
    assert parse(WHOLE_FORMS[form]).content() == parse(PLAIN).content()
    assert parse(WHOLE_FORMS[form].encode()).exit_code == 0


@pytest.mark.parametrize("form", ENTRY_FORMS)
def test_every_form_of_the_entries_gives_the_same_entries(form):
    assert parse(ENTRY_FORMS[form]).content()["entries"] == parse(PLAIN).content()["entries"]


def test_a_windows_1252_file_is_read_with_a_warning():
    document = parse(PLAIN.replace("🧠 ", "").replace("📋 ", "").encode("cp1252"))
    assert document.entries and "naïve" in document.trace
    assert [(d.severity, d.code) for d in document.diagnostics] == [("warning", "not-utf-8")]


@pytest.mark.data
def test_the_founding_document_has_two_entries():
    plans = sorted((Path(os.environ["CHUNKWISE_DATA"]).parent / "plans").glob("*.txt"))
    if not plans:
        pytest.skip("no founding document beside the data")
    size, removal = check(plans[0]).entries
    assert [value.value for value in size.replacements] == [6e11, 3e11, 1.5e11]
    assert (removal.action, removal.metrics) == ("REMOVE", ("perplexity", "zero-shot QA accuracy"))


def entry(*lines: str) -> str:
    return "## Ablation Plan\n### An entry\n" + "\n".join(lines)


PART, REPLACE, REMOVE = "- **Ablated Part**: x", "- **Action**: REPLACE", "- **Action**: REMOVE"
METRICS = "- **Metrics**: loss"


@pytest.mark.parametrize(
    ("text", "severity", "code", "exit_code"),
    [
        ("", "error", "no-plan", 2),
        ("# A paper\n\nIt has no plan.", "error", "no-plan", 2),
        ("## Ablation Plan\n\nNothing to see.", "error", "no-entry", 2),
        ("\x00\x01binary", "error", "binary", 2),
        ("## Ablation Plan\n" + "x" * 1_000_000, "error", "too-large", 2),
        (entry(REPLACE, METRICS), "error", "no-part", 2),
        (entry(PART, METRICS), "error", "no-action", 2),
        (entry(PART, "- **Action**: PONDER", METRICS), "error", "bad-action", 2),
        (entry(PART, REPLACE, METRICS), "warning", "no-replacement", 0),
        (entry(PART, REMOVE, "- **Replacement**: y", METRICS), "warning", "remove-with-replacement", 0),
        (entry(PART, "- **Action**: ADD", METRICS), "warning", "no-replacement", 0),
        (entry(PART, REMOVE), "warning", "no-metrics", 0),
        (entry(PART, REPLACE, "- **Replacement**: 2, 4, 2", METRICS), "warning", "duplicate-replacement", 0),
        (entry(PART, "- **Action**: `Drop`.", METRICS), "note", "action-synonym", 0),
        (entry(PART, REMOVE, METRICS, "- **Rationale**: why"), "note", "unknown-label", 0),
        (entry(PART, REMOVE, METRICS, "### An entry", PART, REMOVE, METRICS), "warning", "duplicate-name", 0),
        ('{"entries": ["none"]}', "error", "not-an-entry", 2),
    ],
)
def test_what_is_wrong_is_said_by_code(text, severity, code, exit_code):
    document = parse(text)
    assert (severity, code) in [(diagnostic.severity, diagnostic.code) for diagnostic in document.diagnostics]
    assert document.exit_code == exit_code


def test_a_good_entry_survives_a_bad_neighbour():
    document = parse(entry(REMOVE) + "\n### Good\n" + "\n".join([PART, REMOVE, METRICS]))
    assert [found.name for found in document.entries] == ["Good"]
    assert document.exit_code == 3
    assert [(d.code, d.line) for d in document.diagnostics] == [("no-part", 2)]


def test_unknown_labels_and_free_text_are_kept():
    document = parse(entry(PART, REMOVE, "- **Rationale**: because", "  of cost", "A free line.", "- a bullet"))
    assert document.entries[0].extra == {"Rationale": ("because of cost",)}
    assert document.entries[0].notes == ("A free line.", "a bullet")


def test_code_in_an_entry_is_a_note():
    document = parse(entry(PART, REMOVE, "```", "- **Action**: ADD", "```", METRICS))
    assert (document.entries[0].action, document.entries[0].metrics) == ("REMOVE", ("loss",))
    assert document.entries[0].notes == ("```", "- **Action**: ADD", "```")


def test_duplicate_names_are_suffixed():
    document = parse(entry(PART, REMOVE) + ("\n### An entry\n" + "\n".join([PART, REMOVE])) * 2)
    assert [found.name for found in document.entries] == ["An entry", "An entry (2)", "An entry (3)"]


def test_a_continued_item_is_one_item():
    document = parse(entry(PART, REPLACE, "- **Replacement**:", "  - neighbours in", "    the prompt", "  - 4"))
    assert [value.text for value in document.entries[0].replacements] == ["neighbours in the prompt", "4"]


def test_items_that_are_not_indented_belong_to_their_field():
    document = parse(entry(PART, REPLACE, "- **Replacement**:", "- 600B tokens", "- 300B tokens", METRICS))
    assert [value.text for value in document.entries[0].replacements] == ["600B tokens", "300B tokens"]


def test_a_plan_inside_a_closed_fence_is_text_and_an_open_fence_hides_nothing():
    inside = "```\n" + entry(PART, REMOVE) + "\n```\n"
    assert parse(inside).entries == ()
    assert len(parse("```\n" + entry(PART, REMOVE)).entries) == 1


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("2, 4, 8", ["2", "4", "8"]),
        ("1,200 tokens, 2,400 tokens", ["1,200 tokens", "2,400 tokens"]),
        ("a (b, c), [d, e]", ["a (b, c)", "[d, e]"]),
        ("600B / 300B / 150B", ["600B", "300B", "150B"]),
        ("one; two", ["one", "two"]),
        ("a, b; c", ["a", "b; c"]),
        ("1/2", ["1/2"]),
        ("", []),
    ],
)
def test_inline_lists(text, items):
    assert split_list(text) == items


@pytest.mark.parametrize(
    ("text", "metrics"),
    [
        ("perplexity, precision and recall", ("perplexity", "precision", "recall")),
        ("perplexity, and accuracy.", ("perplexity", "accuracy")),
        ("accuracy on science and law", ("accuracy on science and law",)),
        ("F1 (macro, micro), loss", ("F1 (macro, micro)", "loss")),
    ],
)
def test_metrics_are_split_outside_brackets(text, metrics):
    assert parse(entry(PART, REMOVE, f"- **Metrics**: {text}")).entries[0].metrics == metrics


def test_check_reads_a_file_and_names_one_that_is_not_there(tmp_path):
    (tmp_path / "plan.md").write_text(PLAIN, encoding="utf-8")
    summary = check(tmp_path / "plan.md").summary()
    assert [found["ablated_part"] for found in summary["entries"]] == ["retrieval database size", "cross-attention"]
    assert summary["entries"][0]["replacements"] == ["600B tokens", "½ of it"] and summary["diagnostics"] == []
    assert json.loads(json.dumps(summary)) == summary
    with pytest.raises(PlanError, match=r"no plan .*no_such\.md': neither a file nor .*\(instructretro, mechanism"):
        check(tmp_path / "no_such.md")


def test_a_file_is_read_before_the_packaged_plan_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mechanism").mkdir()  # a folder is no plan, and hides none
    (tmp_path / "instructretro").write_text(PLAIN, encoding="utf-8")
    assert [found.ablated_part for found in check("instructretro").entries][1] == "cross-attention"
    assert len(check("mechanism").entries) == 8
    with pytest.raises(PlanError, match="cannot read the plan .*: Is a directory"):
        check(tmp_path)


def test_the_packaged_plan_is_clean():
    document = check("instructretro")
    assert [found.action for found in document.entries] == ["REPLACE", "REMOVE", "REPLACE", "REPLACE"]
    assert document.diagnostics == () and parse(render(document)).content() == document.content()


# --- properties ---------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        "## Ablation Plan", "# Plan", "## Reasoning Trace", "### Entry", "#### deeper", "- **Ablated Part**: ",
        "- **Action**: ", "- Action: ADD", "- **Replacement**:", "  - ", "- **Metrics**: ", "- **Notes**: ",
        "- **Own label**: ", "REMOVE", "REPLACE", "```", "~~~", "<div>", "</div>", "<li>", "<ul>", "<!--", "-->",
        "<style>", "&amp;", "&lt;b&gt;", "&#195;&#169;", "&#10;", "Ã©", "ÃƒÂ©", "é", "1,200", ", ", " and ", "\n", "\n",
        "\n\n", "    ", "\t", "\r\n", "x", "{", "[", '"', "entries:\n", "- ", "#", ": ", "**", "__", "\x1e", "\x85",
        "\u2028", "A\u030a", "\u0338", "\ufeff",
    ]
)  # fmt: skip
DOCUMENTS = st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=200))
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"ablated_part": st.text(min_size=1), "action": st.sampled_from(["ADD", "REMOVE", "REPLACE"])},
        optional={
            "name": st.text(),
            "replacement": st.one_of(st.text(), st.lists(st.one_of(st.text(), st.integers(), st.lists(st.integers())))),
            "metrics": st.one_of(st.text(), st.lists(st.text())),
            "notes": st.text(),
            "trace": st.text(),
        },
    ),
    max_size=4,
)


def assert_round_trip(document: PlanDocument) -> None:
    assert parse(render(document)).content() == document.content()


@settings(max_examples=300)
@given(DOCUMENTS)
@example("## Ablation Plan\n### E\n- **Ablated Part**: Ã©\n- **Action**: ADD &amp;#195;")
def test_any_text_is_read_without_raising_and_survives_a_round_trip(text):
    assert_round_trip(parse(text))
    assert_round_trip(parse("# T\n## Reasoning Trace\n" + text + "\n## Ablation Plan\n### E\n- **Ablated Part**: p\n"
                            "- **Action**: ADD\n" + text))  # fmt: skip


@settings(max_examples=150)
@given(DOCUMENTS)
def test_any_text_in_a_field_survives_a_round_trip(text):
    lines = [f"### E {text}", f"- **Ablated Part**: {text}", "- **Action**: ADD", f"- **Metrics**: {text}"]
    lines += ["- **Replacement**:", f"  - {text}"]
    assert_round_trip(parse("\n".join(["## Ablation Plan", *lines])))


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_raising(data):
    assert_round_trip(parse(data))


@settings(max_examples=150)
@given(ENTRIES, st.text(), st.text())
def test_any_objects_survive_a_round_trip(entries, title, trace):
    assert_round_trip(parse(json.dumps({"title": title, "trace": trace, "entries": entries})))


HOSTILE = {
    "open styles": "<style" * 100_000,
    "open comments": "<!--" * 200_000,
    "open tags": "<h1" * 300_000,
    "open bold": "**a" * 300_000,
    "brackets": "[" * 500_000,
    "ampersands": "&" * 900_000,
    "bullets": "- " * 400_000,
    "deep YAML": "entries:\n" + "- [" * 100_000,
    "fences": "```\n" * 60_000,
    "continued lines": "  a\n" * 60_000,
    "flat bullets": "x\n- **Action**: REPLACE\n- **Replacement**:\n" + "- a\n" * 20_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_takes_seconds_at_most(text):
    parse("## Ablation Plan\n### E\n- **Ablated Part**: " + text)
    parse(text)
