"""Which paper a plan is about: what its title and text name, and whether its amounts can be read."""

import json

import pytest
import yaml

from chunkwise.core.packs import packaged_files
from chunkwise.lab.plan.read import check, parse, render
from chunkwise.lab.profile import load_profile
from chunkwise.lab.resolve.arms.plan import resolve
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.paper import about_paper, load_paper

OWN, RETRO = "instructretro", "retro"
TITLES = {
    "named": [
        "What is retrieval worth to InstructRetro?", "instructretro ablations", "InstructRetro against RETRO",
        "lm-planner/gpt-4o/InstructRetro__Instruction_Tuning_post_Retrieval_Augmented_Pretraining",
        "Plan for arXiv:2310.07713", "InstructRetro-style retrieval",
    ],
    "assumed": [
        None, "", "My ablations of retrieval", "Ablation plan", "ABLATION PLAN", "Ablation plan for Friday", "Untitled",
        "Retrieval database size", "What does the retriever buy us?", "Chunk-wise cross-attention", "Plan v2", "README",
        "Ablations, second draft", "Retrofitting GPT-2", "How large must the datastore be?", "LoRA", "mine",
        "Ablation Study: retrieval in language models", "Ablation Plan for Retrieval-Augmented Language Models",
        "Proposed ablations", "Q3 ablation plan", "Ablations I want to see", "Weekly experiments",
        "Missing ablations", "Study 3: neighbours", "Which layers should read?", "Notes on the retrofit",
        "Founding plan", "Ablation Budget", "A Plan Of Small Ablations", "Draft ablation plan",
    ],
    "other": [
        "RETRO", "RETRO ablations", "Retro: table 13", "RETRO++", "a/b/RETRO", "RETRO-style retrieval",
        "planner/model/Improving_language_models_by_retrieving_from_trillions_of_tokens",
        "Improving language models by retrieving from trillions of tokens", "Ablations of RETRO++ (arXiv:2304.06762)",
        "Shall we pretrain autoregressive language models with retrieval? A comprehensive study",
        "Shall we pretrain autoregressive language models with retrieval?",
    ],
    "foreign": [
        "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", "GaLore", "GaLore ablations", "BERT",
        "Self-RAG ablation plan", "Ablation study of MotionEditor", "lm-planner/claude/3D_Aware_Video_Generation",
        "Deep Residual Learning for Image Recognition", "Attention Is All You Need", "kNN-LM", "RETRO-li", "Galore",
        "Retro-li: small-scale retrieval", "REALM: Retrieval-Augmented Language Model Pre-Training",
        "Atlas ablations", "Ablation plan for Atlas", "Ablation plan for `Atlas`", "ablations of atlas",
        "GPT-3 ablations", "Ablating GPT-4", "Ablation plan for Phi-3", "Mistral 7B", "T5",
        "Ablation Study for Llama 3", "Toolformer", "Ablation plan: Memorizing Transformers",
        "Ablation plan: Toolformer", "LLaMA-2", "How good is Toolformer?",
        "Should VLMs Be Pre-trained with Image Data?", "Robo-centric world models",
        "Toolformer: Language Models Can Teach Themselves to Use Tools",
        "Generalization through Memorization: Nearest Neighbor Language Models",
    ],
}  # fmt: skip


def plan(title=None, trace="", *replacements: str, **fields):
    entry = {"name": "E", "ablated_part": "retrieval database size", "action": "REPLACE"}
    entry |= {"replacement": list(replacements or ("600B tokens", "50%")), "metrics": ["perplexity"]}
    return parse(json.dumps({"title": title, "trace": trace, "entries": [entry | fields]}))


def resolved(*arguments, paper=None, profile="laptop"):
    about, given = about_paper(load_profile(profile), paper)
    return resolve(plan(*arguments), about, paper=given)


def ratios(resolution) -> list[float | None]:
    return [row.ratio and round(row.ratio, 4) for row in resolution.entries[0].replacements]


@pytest.mark.parametrize(("kind", "title"), [(kind, title) for kind, titles in TITLES.items() for title in titles])
def test_a_title_says_which_paper_a_plan_is_about(kind, title):
    assert resolved(title).subject.kind == kind


def test_an_amount_of_another_paper_is_refused_in_one_line_and_a_share_is_not():
    for title, remedy in (("RETRO", "--paper retro "), ("GaLore", "--paper NAME or FILE")):
        resolution = resolved(title)
        amount, share = resolution.entries[0].replacements
        assert resolution.subject.says.startswith("ANOTHER PAPER: ") and "\n" not in resolution.subject.says
        assert amount.status == "unresolved" and remedy in amount.message and amount.words == "600B tokens"
        assert (share.status, share.ratio, resolution.paper) == ("resolved", 0.5, None)


def test_amounts_are_read_against_the_paper_that_is_asked_for():
    assert ratios(resolved("RETRO", paper=RETRO)) == [round(600 / 1750, 4), 0.5]
    assert ratios(resolved("RETRO++", "", "165B tokens", paper="retro++")) == [0.5]
    assert ratios(resolved("InstructRetro", paper=OWN)) == ratios(resolved("InstructRetro")) == [0.5, 0.5]
    # The user may insist, and is told what was done.
    forced = resolved("RETRO", paper=OWN)
    assert ratios(forced) == [0.5, 0.5] and forced.subject.kind == "given"
    assert "names RETRO" in forced.subject.says and "as those of InstructRetro" in forced.subject.says


def test_the_text_names_a_paper_where_the_title_names_none():
    assert resolved("My plan", "RETRO reads from 1.75T tokens.").subject.kind == "other"
    assert resolved(None, "As in arXiv:2112.04426.").subject.kind == "other"
    assert resolved("My plan", "InstructRetro follows RETRO.").subject.kind == "named"
    assert resolved("InstructRetro", "RETRO found one layer enough.").subject.kind == "named"
    assert resolved("GaLore ablations", "InstructRetro and RETRO are cited.").subject.kind == "foreign"
    # The paper's name is spelt so; the encoder of InstructRetro is called "Retro encoder" too.
    assert resolved("My plan", "The Retro encoder, and a retrofitted GPT.").subject.kind == "assumed"


ENTRY = {"name": "E", "ablated_part": "retrieval database size", "action": "REPLACE", "replacement": ["600B tokens"]}
ENTRY |= {"metrics": ["perplexity"]}
TABLE = """
| Part | Action | Replacement | Metrics |
|---|---|---|---|
| retrieval database size | REPLACE | 600B tokens | perplexity |
"""
FENCED = f"```json\n{json.dumps([ENTRY])}\n```"
PAGES = {
    "other": [
        f"## Ablation Plan for RETRO\n{TABLE}", f"Here is an ablation plan for RETRO (2021).\n\n{FENCED}",
        f"- Paper: RETRO\n{TABLE}", f"# Plan\n\nAs in RETRO++, unlike InstructRetro.\n\n## Ablation Plan\n{TABLE}",
        json.dumps({"paper": "Improving LMs (RETRO)", "entries": [ENTRY]}),
        json.dumps({"title": "Ablation plan", "paper_id": "RETRO", "entries": [ENTRY]}),
        json.dumps(ENTRY | {"paper": "RETRO"}), f"## Ablation Plan\n{TABLE}\n## Summary\n\nAll of it is about RETRO.\n",
    ],
    "foreign": [
        f"Title: Atlas ablations\n{TABLE}", f"Paper: Atlas (Izacard et al.)\n{TABLE}",
        f"## Ablation Plan for Atlas\n{TABLE}",
        f"Below I propose ablations of Toolformer.\n\n{FENCED}", f"---\npaper: Atlas\n---\n{TABLE}",
        json.dumps({"paper_title": "Atlas: few-shot learning", "entries": [ENTRY]}),
        f"{json.dumps({'paper': 'Atlas'})}\n{json.dumps(ENTRY)}\n",
        "```json\n" + json.dumps({"article": "REALM", "plan": [ENTRY]}) + "\n```",
    ],
    "assumed": [
        f"## Ablation Plan\n{TABLE}", f"Here is a detailed ablation plan for your language model.\n\n{FENCED}",
        f"I suggest ablations on three parts.\n{TABLE}", f"## Ablation Study: Retrieval Database Size\n{TABLE}",
        json.dumps({"paper": "n/a", "entries": [ENTRY]}), TABLE,
    ],
    "named": [
        f"Paper: InstructRetro\n{TABLE}", f"# Plan\n\nOf InstructRetro, unlike RETRO.\n\n## Ablation Plan\n{TABLE}",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "page"), [(kind, page) for kind, pages in PAGES.items() for page in pages])
def test_a_plan_may_name_its_paper_beside_its_title(kind, page):
    document = parse(page)
    assert len(document.entries) == 1
    for same in (document, parse(render(document))):
        resolution = resolve(same, load_profile("laptop"))
        assert resolution.subject.kind == kind
        assert ratios(resolution) == ([None] if kind in ("other", "foreign") else [0.5])


def below(heading: str, title: str = "Ablations of InstructRetro"):
    """What becomes of an entry above and one below a heading of a plan, which a rendered page keeps."""
    fields = "- **Ablated Part**: retrieval database size\n- **Action**: REPLACE\n- **Replacement**: 600B tokens\n"
    fields += "- **Metrics**: accuracy\n"
    document = parse(f"# {title}\n\n## Ablation Plan\n\n### A\n{fields}\n## {heading}\n\n### B\n{fields}")
    assert [entry.below for entry in document.entries] == [(), (heading,)]
    first, again = (resolve(each, load_profile("laptop")) for each in (document, parse(render(document))))
    assert first.entries == again.entries
    return first


@pytest.mark.parametrize(
    "heading", ["Atlas", "2. REALM", "Atlas (Izacard et al., 2022)", "Ablations of Atlas", "RETRO"]
)
def test_a_heading_that_names_another_paper_says_what_the_entries_below_it_are_about(heading):
    resolution = below(heading)
    assert resolution.subject.kind == "named" and ratios(resolution) == [0.5]
    (row,) = resolution.entries[1].replacements
    assert (row.status, row.ratio) == ("unresolved", None)
    assert ("an amount of RETRO" if heading == "RETRO" else "an amount of another paper's") in row.message
    # What a task's accuracy is on is the other paper's business too, unless its values are packaged.
    assert (resolution.entries[1].metrics[0].id is None) == (heading != "RETRO")


@pytest.mark.parametrize(
    "heading",
    [
        "Group A: retrieval", "Efficiency", "High priority", "Phase 1: Quick wins", "Baselines and Controls",
        "Tier 1 – must run", "LR schedule", "KV cache size",
        "Training Dynamics", "Retro encoder", "Model", "InstructRetro", "Regularization",
    ],
)  # fmt: skip
def test_a_heading_that_names_no_other_paper_changes_nothing(heading):
    assert [row.ratio for entry in below(heading).entries for row in entry.replacements] == [0.5, 0.5]


def test_entries_below_the_profiles_paper_are_read_in_a_plan_of_several():
    above, rest = below("InstructRetro", title="Ablations of RETRO").entries
    assert above.replacements[0].ratio is None and rest.replacements[0].ratio == 0.5
    insisted = resolve(
        parse(
            "# P\n\n## Atlas\n\n### A\n- Part: retrieval database size\n- Action: REPLACE\n- Replacement: 600B tokens\n"
        ),
        load_profile("laptop"),
        paper=load_paper(OWN),
    )
    assert insisted.entries[0].replacements[0].ratio == 0.5  # --paper stands above the headings


def test_a_profile_about_another_paper_reads_that_papers_plans():
    profile = load_profile("laptop", ["paper=retro"])
    resolution = resolve(plan("RETRO, table 14", "", "900B tokens"), profile)
    assert resolution.subject.kind == "named" and ratios(resolution) == [round(900 / 1750, 4)]
    assert resolve(plan("What is InstructRetro worth?"), profile).subject.kind == "other"


def test_a_file_of_ones_own_is_a_paper(tmp_path):
    file = tmp_path / "mine.yaml"
    values = {"datastore.size": [{"value": 8.0e11, "unit": "tokens", "source": "my notes"}]}
    paper = {
        "id": "atlas-2",
        "title": "Atlas again",
        "url": "https://example.org",
        "names": ["Atlas2"],
        "values": values,
    }
    file.write_text(yaml.safe_dump(paper))
    assert ratios(resolved("Atlas2 ablations", paper=file)) == [0.75, 0.5]
    own = load_profile("laptop", [f"paper={file}"])
    assert resolve(plan("Atlas2 ablations"), own).subject.kind == "named"
    # One that does not say how large its database is has no amount to offer, InstructRetro's least of all.
    file.write_text(yaml.safe_dump(paper | {"values": {}}))
    amount = resolved("Atlas2 ablations", paper=file).entries[0].replacements[0]
    assert amount.status == "unresolved" and amount.ratio is None


def test_a_profile_without_a_paper_reads_shares_alone():
    resolution = resolve(plan("My plan"), load_profile("laptop", ["paper=null"]))
    assert [row.status for row in resolution.entries[0].replacements] == ["unresolved", "resolved"]
    assert resolution.subject.kind == "none"


@pytest.mark.parametrize("name", packaged_files("paper"))
def test_a_packaged_paper_says_what_can_be_ablated_and_where_it_stands(name):
    paper = load_paper(name)
    assert paper.id == name and paper.arxiv in paper.url and paper.names
    assert set(paper.values) <= set(Registry().components)
    facts = [fact for facts in paper.values.values() for fact in facts]
    assert all(paper.arxiv in fact.source for fact in facts)
    sizes = {fact.unit: fact.value for fact in paper.values["datastore.size"]}
    assert 60 <= sizes["tokens"] / sizes["chunks"] <= 70  # chunks of 64 tokens, both numbers rounded
    assert {"largest base with retrieval", "replicates"} <= {fact.name for fact in paper.recipe}


def test_the_packaged_plan_is_about_its_own_paper():
    resolution = resolve(check("instructretro"), load_profile("laptop"))
    assert resolution.subject.says == "Paper: InstructRetro (arXiv:2310.07713), which the plan's title names."
