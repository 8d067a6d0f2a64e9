"""The stages on a small world: what is written, what is shared, what is refused."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from chunkwise.core.errors import ConfigError, MismatchError
from chunkwise.core.io import load_npy, read_json, read_parquet
from chunkwise.core.precision import resolve_dtype
from chunkwise.corpus.config import SequencesConfig
from chunkwise.corpus.stages import SEQUENCES
from chunkwise.datastore.config import DatastoreConfig, ViewConfig
from chunkwise.datastore.stages import DATASTORE
from chunkwise.evaluation.config import BagOfWordsConfig, PerplexityConfig, QuestionsEvalConfig
from chunkwise.evaluation.evidence import find_evidence, own_documents
from chunkwise.evaluation.questions import own_chunks
from chunkwise.evaluation.stages import BAG_OF_WORDS, PERPLEXITY, QA
from chunkwise.neighbours.table import NeighbourTable
from tests.evaluation.building import decoder, model_artefact, retro


@pytest.fixture(scope="module")
def models(world):
    return model_artefact(world.store, retro(), "retro"), model_artefact(world.store, decoder(), "plain")


def perplexity(world, model, **config):
    return world.store.get_or_build(
        PERPLEXITY,
        PerplexityConfig(**config),
        {"model": model, "sequences": world.sequences, "neighbours": world.neighbours, "datastore": world.datastore},
        device="cpu",
    )


def questions(world, model, **config):
    return world.store.get_or_build(
        QA,
        QuestionsEvalConfig(**config),
        {
            "model": model,
            "questions": world.questions,
            "question_neighbours": world.question_neighbours,
            "datastore": world.datastore,
            "tokens": world.tokens,
        },
        device="cpu",
    )


def metrics_of(artefact):
    return read_json(artefact.file("metrics.json"))


# Perplexity

CONDITIONS = ("on", "off", "random", "shuffled", "own", "oracle")


def test_every_condition_scores_the_same_tokens(world, models):
    retro_model, plain = models
    made = [perplexity(world, retro_model, condition=name) for name in CONDITIONS]
    made += [perplexity(world, plain, condition=name) for name in ("none", "off", "in_prompt")]
    assert len({metrics_of(artefact)["tokens"] for artefact in made}) == 1
    assert len({metrics_of(artefact)["nll"] for artefact in made}) == 7  # off, none and the twin's off are one number
    overlaps = [read_parquet(artefact.file("chunks.parquet"))["overlap"].to_pylist() for artefact in made]
    assert all(overlap == overlaps[0] for overlap in overlaps)  # the buckets are the same for all arms


def test_records_add_up(world, models):
    artefact = perplexity(world, models[0], condition="on")
    metrics, nll = metrics_of(artefact), load_npy(artefact.file("token_nll.npy"))
    documents = read_parquet(artefact.file("records.parquet")).to_pydict()
    chunks = read_parquet(artefact.file("chunks.parquet")).to_pydict()
    assert sum(documents["tokens"]) == sum(chunks["tokens"]) == metrics["tokens"] == int((~np.isnan(nll)).sum())
    assert sum(documents["nats"]) / metrics["tokens"] == pytest.approx(metrics["nll"])
    assert sum(chunks["nats"]) == pytest.approx(sum(documents["nats"]), rel=1e-6)
    assert metrics["by_overlap"][-1]["up_to"]["tokens"] == metrics["tokens"]
    assert set(metrics["by_source"]) == set(documents["source"]) == {"a", "b"}
    assert sum(part["tokens"] for part in metrics["by_source"].values()) == metrics["tokens"]
    first = [overlap for overlap, chunk in zip(chunks["readable_overlap"], chunks["chunk"], strict=True) if chunk == 0]
    assert all(overlap is None or np.isnan(overlap) for overlap in first)
    assert artefact.counts["nll"] == metrics["nll"]


def test_the_oracle_can_read_what_it_predicts(world, models):
    chunks = read_parquet(perplexity(world, models[0], condition="oracle").file("chunks.parquet")).to_pandas()
    later = chunks[(chunks.chunk > 0) & (chunks.tokens == 16)]
    assert len(later) > 10
    assert (later.readable_overlap == 1.0).all()


def test_a_view_changes_what_is_read_and_not_the_buckets(world, models):
    everything = perplexity(world, models[0], condition="on")
    half = perplexity(world, models[0], condition="on", view=ViewConfig(fraction=0.5), view_seed=3)
    assert metrics_of(half)["nll"] != metrics_of(everything)["nll"]
    columns = [read_parquet(made.file("chunks.parquet"))["overlap"].to_pylist() for made in (half, everything)]
    assert columns[0] == columns[1]


def test_fields_that_a_condition_ignores_share_one_artefact(world, models):
    off = perplexity(world, models[0], condition="off")
    same = perplexity(world, models[0], condition="off", k=7, view=ViewConfig(fraction=0.5), view_seed=9, random_seed=2)
    assert same.key == off.key
    random = [perplexity(world, models[0], condition="random", random_seed=seed).key for seed in (0, 1)]
    assert random[0] != random[1]
    shuffled = [perplexity(world, models[0], condition="shuffled", random_seed=seed).key for seed in (0, 1)]
    assert shuffled[0] != shuffled[1]
    assert len({perplexity(world, models[0], condition="own", random_seed=seed).key for seed in (0, 1)}) == 1


def test_what_auto_became_counts_and_not_that_it_was_asked_for(world, models):
    asked = perplexity(world, models[0], condition="off", dtype="auto")
    assert asked.key == perplexity(world, models[0], condition="off", dtype=resolve_dtype("auto")).key


def test_the_same_evaluation_gives_the_same_bytes(world, models, tmp_path):
    first = perplexity(world, models[0], condition="on")
    elsewhere = type(world.store)(tmp_path).get_or_build(
        PERPLEXITY,
        PerplexityConfig(condition="on"),
        {
            "model": models[0],
            "sequences": world.sequences,
            "neighbours": world.neighbours,
            "datastore": world.datastore,
        },
        device="cpu",
    )
    assert elsewhere.key == first.key
    assert elsewhere.digest == first.digest


def test_without_a_table_there_is_no_overlap_but_a_loss(world, models):
    artefact = world.store.get_or_build(
        PERPLEXITY, PerplexityConfig(condition="none"), {"model": models[1], "sequences": world.sequences}, device="cpu"
    )
    assert metrics_of(artefact)["by_overlap"] is None
    assert metrics_of(artefact)["nll"] == metrics_of(perplexity(world, models[1], condition="none"))["nll"]


def test_a_model_of_the_wrong_kind_is_refused(world, models):
    retro_model, plain = models
    with pytest.raises(MismatchError, match="condition 'on' needs a Retro model"):
        perplexity(world, plain, condition="on")
    with pytest.raises(MismatchError, match="condition 'none' needs a plain decoder"):
        perplexity(world, retro_model, condition="none")
    with pytest.raises(MismatchError, match="cell 'encoder' needs a Retro model"):
        questions(world, plain, cell="encoder")


def test_inputs_that_do_not_belong_together_are_refused(world, models):
    packed = world.store.get_or_build(
        SEQUENCES, SequencesConfig(split="valid", sequence_tokens=64), {"tokens": world.tokens}
    )
    with pytest.raises(MismatchError, match="layout 'packed'"):
        perplexity(replace(world, sequences=packed), models[0])
    other = world.store.get_or_build(
        SEQUENCES, SequencesConfig(split="valid", sequence_tokens=32, layout="documents"), {"tokens": world.tokens}
    )
    with pytest.raises(MismatchError, match="made for other sequences"):
        perplexity(replace(world, sequences=other), models[0])
    with pytest.raises(ConfigError, match="needs the neighbours"):
        perplexity(replace(world, neighbours=None), models[0])
    small = world.store.get_or_build(
        DATASTORE, DatastoreConfig(chunk_tokens=8, min_chunk_tokens=4), {"tokens": world.tokens}
    )
    with pytest.raises(MismatchError, match="chunks of 16 tokens, the datastore holds chunks of 8"):
        perplexity(replace(world, datastore=small), models[0], condition="random")
    with pytest.raises(MismatchError, match="knows 300 tokens, the tokenizer has 320"):
        perplexity(world, model_artefact(world.store, decoder(vocabulary=300), "short"), condition="none")


# Questions


@pytest.mark.parametrize("cell", ["closed", "prompt", "encoder", "both"])
def test_every_cell_gives_a_record_for_each_question(world, models, cell):
    artefact = questions(world, models[0], cell=cell, n_generate=5, prompt_tokens=96)
    records, metrics = read_parquet(artefact.file("records.parquet")).to_pydict(), metrics_of(artefact)
    asked = world.questions.counts["questions"]
    assert metrics["questions"] == metrics["with_choices"] == len(records["question"]) == asked
    assert metrics["written"] == 5
    assert metrics["choice_accuracy"] == pytest.approx(sum(records["correct"]) / asked)
    assert metrics["signal"]["choice_accuracy"]["chance"] == 0.25
    assert all(np.isfinite(records["answer_nll"]))
    assert sum(prediction is not None for prediction in records["prediction"]) == 5
    assert (sum(records["passages"]) > 0) == (cell in ("prompt", "both"))
    assert max(records["prompt_tokens"]) <= 96
    assert any(records["own_document_found"]) == (cell != "closed")
    assert [choice == right for choice, right in zip(records["choice"], records["answer_index"], strict=True)] == (
        records["correct"]
    )


def test_cells_differ_where_they_should_and_only_there(world, models):
    retro_model, plain = models
    nll = {
        cell: metrics_of(questions(world, retro_model, cell=cell))["answer_nll"]
        for cell in ("closed", "prompt", "encoder", "both")
    }
    assert len(set(nll.values())) == 4
    for cell in ("closed", "prompt"):  # gate 0 is the decoder
        assert metrics_of(questions(world, plain, cell=cell))["answer_nll"] == nll[cell]


def test_scorings_share_likelihoods_and_differ_in_choices(world, models):
    tables = [
        read_parquet(questions(world, models[0], scoring=name).file("records.parquet")).to_pydict()
        for name in ("calibrated", "mean", "sum")
    ]
    assert tables[0]["answer_nll"] == tables[1]["answer_nll"] == tables[2]["answer_nll"]
    assert tables[0]["margin"] != tables[1]["margin"] != tables[2]["margin"]


def test_batches_make_no_difference_to_answers(world, models):
    one, many = (
        read_parquet(
            questions(world, models[0], batch_questions=size, n_generate=4).file("records.parquet")
        ).to_pydict()
        for size in (1, 32)
    )
    assert one["answer_nll"] == pytest.approx(many["answer_nll"], rel=1e-4)
    assert one["prediction"] == many["prediction"]


def test_closed_needs_no_table_and_is_shared_by_all_views(world, models):
    alone = world.store.get_or_build(
        QA,
        QuestionsEvalConfig(cell="closed"),
        {"model": models[1], "questions": world.questions, "tokens": world.tokens},
        device="cpu",
    )
    assert questions(world, models[1], cell="closed", view=ViewConfig(fraction=0.5), view_seed=4).key == alone.key
    with pytest.raises(ConfigError, match="cell 'prompt' needs the neighbours"):
        world.store.get_or_build(
            QA,
            QuestionsEvalConfig(cell="prompt"),
            {"model": models[1], "questions": world.questions, "tokens": world.tokens},
        )


def test_a_part_of_the_questions_is_a_part_of_the_answers(world, models):
    everything = read_parquet(questions(world, models[1], cell="prompt").file("records.parquet")).to_pydict()
    some = read_parquet(questions(world, models[1], cell="prompt", n_questions=7).file("records.parquet")).to_pydict()
    known = dict(zip(everything["question"], everything["answer_nll"], strict=True))
    assert len(some["question"]) == 7
    assert [known[question] for question in some["question"]] == pytest.approx(some["answer_nll"], rel=1e-4)


def test_evidence_of_each_kind(world):
    table = NeighbourTable.open(world.question_neighbours, world.datastore)
    rows = read_parquet(world.tokens.file("documents.parquet"), columns=["document_id", "split"]).to_pylist()
    held = [row["document_id"] for row in rows if row["split"] == "held"]
    own = own_documents(table.datastore, [*held[:-1], None])
    assert own[-1] == -1

    def evidence(kind, seed=0, view=None):
        ids, _ = find_evidence(kind, 4, table=table, view=view, view_seed=0, placebo_seed=seed, own_Q=own)
        return ids

    def documents(ids):
        return np.where(ids < 0, -2, table.datastore.document_row[ids])

    assert (documents(evidence("found")) == own[:, None]).any(axis=1)[:-1].mean() > 0.5
    for kind in ("placebo", "other_documents"):
        assert not (documents(evidence(kind)) == own[:, None]).any()
        assert evidence(kind).tolist() == evidence(kind).tolist()
    assert evidence("placebo").tolist() != evidence("placebo", seed=1).tolist()
    assert (evidence("placebo") >= 0).all()
    only_a = ViewConfig(sources=("a",))
    for kind in ("found", "placebo", "other_documents"):
        ids = evidence(kind, view=only_a)
        assert set(table.datastore.documents.source[table.datastore.document_row[ids[ids >= 0]]]) == {"a"}


def test_a_chunk_is_shown_once_in_a_prompt(world):
    from chunkwise.evaluation.evidence import Evidence

    store = NeighbourTable.open(world.question_neighbours, world.datastore).datastore
    chunk = int(store.documents.first_chunk[3])  # the first of several chunks of a document
    evidence = Evidence(store, np.array([[chunk + 1, chunk, chunk + 1, chunk + 2, -1]]), np.array([3]), {})
    pieces = [store.chunks[chunk + i, : store.lengths[chunk + i]].tolist() for i in range(4)]
    assert evidence.passages(0, 5, 2) == [pieces[1] + pieces[2], pieces[0], pieces[3]]
    assert evidence.passages(0, 5, 1) == [pieces[1], pieces[0], pieces[2]]
    assert evidence.passages(0, 1, 2) == [pieces[1] + pieces[2]]
    assert evidence.holds_own(np.array([0]), [1]).tolist() == [True]


def test_the_bag_of_words_reads_passages_or_the_question(world):
    def bag(**config):
        return world.store.get_or_build(
            BAG_OF_WORDS,
            BagOfWordsConfig(**config),
            {
                "questions": world.questions,
                "question_neighbours": world.question_neighbours,
                "datastore": world.datastore,
                "tokens": world.tokens,
            },
        )

    found, blind, placebo = bag(), bag(reads="question"), bag(evidence="placebo")
    assert metrics_of(found)["own_document_found"] > 0.5 > metrics_of(placebo)["own_document_found"] == 0
    assert metrics_of(blind)["own_document_found"] == 0
    columns = read_parquet(found.file("records.parquet"))
    assert columns.schema == read_parquet(blind.file("records.parquet")).schema
    assert set(columns["answer_nll"].to_pylist()) == {None}
    assert bag(reads="question", passages=2, placebo_seed=5).key == blind.key


# Configs


def test_views_that_mean_the_same_are_the_same():
    everything = PerplexityConfig().used()
    assert PerplexityConfig(view=ViewConfig(), view_seed=3).used() == everything
    assert QuestionsEvalConfig(view=ViewConfig(), view_seed=3).used() == QuestionsEvalConfig().used()
    by_source = [PerplexityConfig(view=ViewConfig(sources=("a",)), view_seed=seed).used() for seed in (1, 2)]
    assert by_source[0] == by_source[1] != everything
    drawn = [PerplexityConfig(view=ViewConfig(fraction=0.5), view_seed=seed).used() for seed in (1, 2)]
    assert drawn[0] != drawn[1]


def test_float16_is_refused():
    with pytest.raises(ConfigError, match="dtype"):
        PerplexityConfig.parse({"dtype": "float16"})


def test_the_lab_can_plan_without_torch():
    code = (
        "import chunkwise.lab.study.planning, chunkwise.graph.stage, sys; chunkwise.graph.stage.stages(); "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("reads", ["random", "shuffled", "own"])
def test_the_encoder_may_read_a_control_below_the_same_prompt(world, models, reads):
    found = questions(world, models[0], cell="both")
    control = questions(world, models[0], cell="both", encoder_reads=reads)
    for name in ("prompt_tokens", "passages", "answer_in_prompt"):  # the prompts are the same
        assert read_parquet(control.file("records.parquet"))[name].to_pylist() == (
            read_parquet(found.file("records.parquet"))[name].to_pylist()
        )
    assert metrics_of(control)["answer_nll"] != metrics_of(found)["answer_nll"]
    unread = [questions(world, models[0], cell="prompt", encoder_reads=kind).key for kind in (reads, "evidence")]
    assert unread[0] == unread[1]  # a cell that reads no encoder does not know the setting


def test_a_prompts_own_chunk_is_its_end():
    ids, mask = own_chunks([[1, 2, 3, 4, 5, 6], [7, 8]], chunk_tokens=4, k=2, pad=0)
    assert ids[:, 0].tolist() == [[3, 4, 5, 6, 0, 0, 0, 0], [0, 0, 7, 8, 0, 0, 0, 0]]
    assert mask[:, 0].astype(int).tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0]]
    assert not mask[:, 1].any()
