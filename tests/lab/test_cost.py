"""Expected times: what they rest on, and what they say of a curriculum."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from chunkwise.core.io import write_json
from chunkwise.evaluation.config import PerplexityConfig, QuestionsEvalConfig
from chunkwise.evaluation.stages import PERPLEXITY, QA
from chunkwise.graph.jobs import Jobs
from chunkwise.lab.profile import load_profile
from chunkwise.lab.study.cost import FIRST_RATE, OVERHEAD_SECONDS, TEXT_TOKENS, costs_of, counted
from chunkwise.model.flops import as_large_as_retrofit, decoder_flops, retrieval_flops
from chunkwise.training.config import AdoptedBase
from chunkwise.training.curriculum import MadeNeighboursConfig
from chunkwise.training.flops import TextRows
from chunkwise.training.stages import ADOPTED_BASE, RETROFIT, TWIN


@pytest.fixture
def profile():
    return load_profile("laptop")


@pytest.fixture
def costs(profile):
    return costs_of(profile, Jobs())


def jobs(profile, **changes):
    """(a retrofit, its twin) without inputs."""
    all_jobs = Jobs()
    config = profile.retrofit_config().model_copy(update=changes)
    return all_jobs.add(RETROFIT, config, {}, seed=0), all_jobs.add(TWIN, profile.twin_config(), {}, seed=0)


def test_nothing_counts_as_measured_before_a_training_was_timed(profile, costs):
    retrofit, twin = jobs(profile)
    assert not costs.measured
    assert costs.expected_seconds(twin) == pytest.approx(OVERHEAD_SECONDS + costs.work(twin) / FIRST_RATE)
    costs.watch(retrofit, 0.0, 0.0)  # no news yet
    costs.watch(retrofit, 0.01, 0.5)  # too short to say
    assert not costs.measured
    costs.watch(retrofit, 0.1, 40.0)
    assert costs.measured
    assert costs.expected_seconds(retrofit) == pytest.approx(OVERHEAD_SECONDS + 400)


def test_later_news_of_a_running_job_replace_earlier_ones_and_its_end_replaces_them_all(profile, costs):
    retrofit, twin = jobs(profile)
    costs.watch(retrofit, 0.1, 40.0)
    costs.watch(retrofit, 0.5, 100.0)
    assert costs.expected_seconds(retrofit) == pytest.approx(OVERHEAD_SECONDS + 200)
    ratio = costs.work(twin) / costs.work(retrofit)
    assert costs.expected_seconds(twin) == pytest.approx(OVERHEAD_SECONDS + 200 * ratio)  # as fast as what was timed
    costs.learn(retrofit, OVERHEAD_SECONDS + 300)
    assert costs.expected_seconds(retrofit) == pytest.approx(OVERHEAD_SECONDS + 300)
    costs.learn(twin, OVERHEAD_SECONDS + 60)
    assert costs.expected_seconds(twin) == pytest.approx(OVERHEAD_SECONDS + 60)


def test_the_share_of_made_neighbours_worked_by_hand():
    curriculum = MadeNeighboursConfig(share=0.8, aligned_steps=2, widening_steps=2, hold_steps=1, fall_steps=4)
    # Five steps of 0.8, then 0.6, 0.4, 0.2 and none.
    assert curriculum.mean_share(10) == pytest.approx((5 * 0.8 + 1.2) / 10)
    assert curriculum.model_copy(update={"hold_steps": None}).mean_share(10) == pytest.approx(0.8)
    assert MadeNeighboursConfig().mean_share(10) == 0


def test_steps_with_made_neighbours_are_expected_to_be_shorter(profile, costs):
    (taught, twin), (plain, _) = jobs(profile), jobs(profile, made_neighbours=MadeNeighboursConfig())
    (control, _) = jobs(profile, neighbour_source="random")
    assert costs.work(twin) < costs.work(taught) < costs.work(plain) == costs.work(control)


def test_the_evaluation_text_is_as_large_as_the_profile_lets_expect(profile):
    assert costs_of(profile, Jobs()).texts["evaluation"].tokens == profile.expected_evaluation_tokens
    bound = profile.changed({"evaluation_text.max_tokens": 1000})
    assert costs_of(bound, Jobs()).texts["evaluation"].tokens == 1000
    open_ended = profile.changed({"expected_evaluation_tokens": None})
    assert costs_of(open_ended, Jobs()).texts["evaluation"].tokens == TEXT_TOKENS


def test_a_text_is_as_large_as_its_artefacts_say():
    text = TextRows.full(tokens=1000, row_tokens=32, chunk_tokens=8)
    rows = counted(text, "sequences", {"rows": 4, "tokens": 80})
    assert (rows.rows, rows.tokens, rows.chunks) == (4, 80, 12)  # of the mean row of 20, until they are counted
    assert counted(rows, "neighbours", {"queries": 11}).chunks == 11


def evaluations(profile, stage, *configs):
    """(costs, jobs): these evaluations of a retrofit with an encoder of four layers."""
    all_jobs = Jobs()
    base = all_jobs.add(ADOPTED_BASE, AdoptedBase(name="packaged"), {})
    retro = profile.retrofit.retro.model_copy(update={"encoder_layers": 4})
    config = profile.retrofit_config().model_copy(update={"retro": retro})
    model = all_jobs.add(RETROFIT, config, {"base": base}, seed=0)
    return costs_of(profile, all_jobs), [all_jobs.add(stage, config, {"model": model}) for config in configs]


def test_an_evaluation_is_counted_with_the_encoder_of_the_model_that_it_reads(profile):
    read, closed, oracle = (PerplexityConfig(condition=name, k=2) for name in ("on", "off", "oracle"))
    costs, (on, off, once) = evaluations(profile, PERPLEXITY, read, closed, oracle)
    rows = profile.expected_evaluation_tokens / 256
    assert costs.work(off) == pytest.approx(rows * sum(decoder_flops(costs.decoder, 256).values()))
    retro = profile.retrofit.retro.model_copy(update={"encoder_layers": 4})
    for job, k in ((on, 2), (once, 1)):
        added = sum(retrieval_flops(costs.decoder, retro, 256, k, chunks=3).values())
        assert costs.work(job) - costs.work(off) == pytest.approx(rows * added)


def test_what_is_done_with_a_wider_twin_is_counted_with_its_own_width(profile):
    all_jobs = Jobs()
    base = all_jobs.add(ADOPTED_BASE, AdoptedBase(name="packaged"), {})
    twin = profile.twin_config()
    wider = twin.model_copy(update={"as_large_as": profile.retrofit.retro})
    models = [all_jobs.add(TWIN, config, {"base": base}, seed=0) for config in (twin, wider)]
    reading = PerplexityConfig(condition="none")
    read = [all_jobs.add(PERPLEXITY, reading, {"model": model}) for model in models]
    costs = costs_of(profile, all_jobs)
    width = as_large_as_retrofit(costs.decoder, profile.retrofit.retro).feed_forward_width
    plain, widened = (costs.work(job) for job in read)
    added = 3 * 2 * 256 * costs.decoder.layers * costs.decoder.width * (width - costs.decoder.feed_forward_width)
    assert widened - plain == pytest.approx(profile.expected_evaluation_tokens / 256 * added)
    training = [costs.work(model) for model in models]  # widened once, not twice
    assert training[1] / training[0] == pytest.approx(widened / plain, rel=0.01)


def test_questions_are_counted_with_what_encoder_and_prompt_read(profile):
    cells = (QuestionsEvalConfig(cell=cell, n_generate=0) for cell in ("closed", "prompt", "encoder", "both"))
    costs, (closed, prompt, encoder, both) = evaluations(profile, QA, *cells)
    assert costs.work(closed) < costs.work(prompt) < costs.work(both)
    added = costs.work(encoder) - costs.work(closed)
    assert added == pytest.approx(costs.work(both) - costs.work(prompt)) and added > 0


def test_an_adopted_decoder_is_counted_by_the_config_that_came_with_it(profile, tmp_path):
    costs, (job,) = evaluations(profile, PERPLEXITY, PerplexityConfig(condition="off"))
    base = next(iter(costs.jobs))
    expected = costs.work(job)
    artefact = SimpleNamespace(file=lambda name: tmp_path / Path(name).name)
    config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 1000}
    write_json(tmp_path / "config.json", config)
    costs.learn_sizes(base, artefact)
    # width 64, feed-forward 256: four matrices of 64 x 64 and two of 64 x 256 a layer
    weights = 2 * (4 * 64 * 64 + 2 * 64 * 256) + 1000 * 64
    attention = 2 * 4 * (256 * 257 // 2) * 64
    rows = profile.expected_evaluation_tokens / 256
    assert costs.work(job) == pytest.approx(rows * (2 * 256 * weights + attention)) != expected
    # Names that nobody knows stop no study.
    write_json(tmp_path / "config.json", {"model_type": "odd", "breadth": 8})
    before = costs.work(job)
    costs.learn_sizes(base, artefact)
    assert costs.work(job) == before
