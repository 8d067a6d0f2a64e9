"""Stages as values: what a declaration promises holds for every stage, and a new one needs nothing else."""

import inspect
import json
import sys

import pytest

from chunkwise.core.artefact import Artefact
from chunkwise.core.config import Config
from chunkwise.core.errors import ArtefactError, ConfigError
from chunkwise.core.store import Store
from chunkwise.graph import stage as graph
from chunkwise.graph.jobs import Jobs
from chunkwise.graph.stage import Input, Resolved, Run, Stage, declare, function, stages


class LinesConfig(Config):
    """Settings of the toy stages."""

    lines: int = 3
    colour: str = "any"


def write_lines(config: LinesConfig, run: Run, start: Artefact | None = None) -> dict[str, int]:
    before = start.file("lines.txt").read_text() if start else ""
    text = before + "".join(f"{run.seed}\n" for _ in range(config.lines))
    (run.folder / "lines.txt").write_text(text)
    return {"lines": text.count("\n")}


def resolve_lines(config: LinesConfig, seed: int, start: Artefact | None = None) -> Resolved | Artefact:
    if config.lines == 0 and start is not None:
        return start
    return Resolved(config.model_copy(update={"colour": "any"}))


HERE = __name__
LINES = Stage(
    name="lines",
    version=1,
    config=LinesConfig,
    inputs={"start": Input(("lines",), optional=True)},
    resolve=f"{HERE}:resolve_lines",
    build=f"{HERE}:write_lines",
    seeded=True,
)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.mark.parametrize("stage", stages().values(), ids=list(stages()))
def test_both_functions_of_every_stage_take_its_inputs(stage):
    build = inspect.signature(function(stage.build)).parameters
    assert list(build)[:2] == ["config", "run"]
    hooks = [dict(list(build.items())[2:])]
    if stage.resolve is not None:
        resolve = inspect.signature(function(stage.resolve)).parameters
        assert list(resolve)[:2] == ["config", "seed"]
        hooks.append(dict(list(resolve.items())[2:]))
    for parameters in hooks:
        assert set(parameters) == set(stage.inputs)
        optional = {name for name, parameter in parameters.items() if parameter.default is not parameter.empty}
        assert optional == {name for name, wanted in stage.inputs.items() if wanted.optional}


@pytest.mark.parametrize("stage", stages().values(), ids=list(stages()))
def test_every_stage_names_fields_and_sources_that_exist(stage):
    kinds = {other.kind for other in stages().values()}
    assert set(stage.per_call) <= set(stage.config.model_fields)
    assert {kind for wanted in stage.inputs.values() for kind in wanted.kinds} <= kinds
    assert stage.build.startswith("chunkwise.") and inspect.getdoc(function(stage.build))


def test_the_stages_come_in_the_order_of_the_data_flow():
    names = list(stages())
    assert names.index("corpus") < names.index("datastore") < names.index("neighbours")
    assert names.index("neighbours") < names.index("retrofit") < names.index("perplexity")


def test_a_key_is_had_without_the_builder(store, monkeypatch):
    monkeypatch.setattr(sys.modules[HERE], "write_lines", lambda *_: pytest.fail("built"))
    key = store.key(LINES, LinesConfig(), seed=0)
    assert len(key) == 40 and store.find(LINES, LinesConfig(), seed=0) is None
    assert not store.root.exists()
    assert key == store.key(LINES, LinesConfig(colour="red"), seed=0)  # the hook says that it does not count
    others = {store.key(LINES, LinesConfig(lines=4), seed=0), store.key(LINES, LinesConfig(), seed=1)}
    assert len(others | {key}) == 3


def test_what_is_built_is_found_by_the_same_call(store):
    first = store.get_or_build(LINES, LinesConfig(lines=2), seed=7)
    assert first.key == store.key(LINES, LinesConfig(lines=2), seed=7) and first.counts == {"lines": 2}
    assert store.find(LINES, LinesConfig(lines=2), seed=7) == first
    longer = store.get_or_build(LINES, LinesConfig(lines=1), {"start": first}, seed=8)
    assert longer.file("lines.txt").read_text() == "7\n7\n8\n"
    assert longer.record.inputs == {"start": first.digest} and longer.record.seeds == {"replicate": 8}
    assert longer.record.code["module"].endswith("test_stage")  # the builder's module, not the graph's


def test_a_hook_may_say_that_the_result_is_there_already(store):
    first = store.get_or_build(LINES, LinesConfig(), seed=0)
    same = store.get_or_build(LINES, LinesConfig(lines=0), {"start": first}, seed=3)
    assert same == first and store.key(LINES, LinesConfig(lines=0), {"start": first}, seed=3) == first.key
    assert len(store.list()) == 1


def test_wrong_inputs_are_refused_before_anything_runs(store):
    needs = Stage("needs", 1, LinesConfig, {"start": Input(("lines",))}, f"{HERE}:write_lines")
    with pytest.raises(ConfigError, match="needs its input 'start', a lines"):
        store.key(needs, LinesConfig())
    other = store.make("words", 1, {}, {}, lambda folder, _: (folder / "a").write_text("a") and {})
    with pytest.raises(ArtefactError, match="expected lines as 'start', got a words"):
        store.key(needs, LinesConfig(), {"start": other})
    with pytest.raises(TypeError, match="takes no input 'end'"):
        store.key(needs, LinesConfig(), {"end": other})
    start = store.get_or_build(LINES, LinesConfig(), seed=0)
    with pytest.raises(TypeError, match="takes no seed"):
        store.key(needs, LinesConfig(), {"start": start}, seed=1)
    with pytest.raises(TypeError, match="needs a seed"):
        store.key(LINES, LinesConfig())


def test_what_is_no_artefact_and_no_word_of_a_run_is_refused_before_anything_is_built(store):
    needs = Stage("needs", 1, LinesConfig, {"start": Input(("lines",))}, f"{HERE}:write_lines")
    for call in (store.key, store.find, store.get_or_build):
        with pytest.raises(TypeError, match="expected an artefact as 'start', got 'runs/lines'; Store.resolve"):
            call(needs, LinesConfig(), {"start": "runs/lines"})
    with pytest.raises(TypeError, match="runs with threads, device, tracking, got 'thread'"):
        store.get_or_build(LINES, LinesConfig(), seed=0, thread=2)
    assert store.list() == []
    stored = store.get_or_build(LINES, LinesConfig(), seed=0, threads=2)
    with pytest.raises(
        TypeError, match="got 'thread'"
    ):  # what is stored needs no run, and the slip is one all the same
        store.get_or_build(LINES, LinesConfig(), seed=0, thread=2)
    assert store.list() == [stored]


def test_the_jobs_of_several_studies_are_counted_once(store):
    studies = []
    for seeds in ((0, 1), (1, 2)):
        jobs = Jobs()
        for seed in seeds:
            jobs.add(LINES, LinesConfig(), seed=seed)
        studies.append(jobs)
    both = Jobs.union(studies)
    assert [job.seed for job in both] == [0, 1, 2] and both.asked == {"lines": 4}
    assert len(studies[0]) == 2  # the parts stay as they are


def test_jobs_run_a_stage_that_nobody_else_knows(store):
    jobs = Jobs()
    first = jobs.add(LINES, LinesConfig(lines=1), seed=4, arm="retro")
    second = jobs.add(LINES, LinesConfig(lines=1), {"start": first}, seed=5)
    assert jobs.add(LINES, LinesConfig(lines=1), seed=4) is first and len(jobs) == 2
    assert first.title == "lines, retro, replicate 4" and jobs.stored(store) == {}
    made = first.perform({}, store)
    assert jobs.stored(store) == {first.id: made}
    second.perform({"start": made}, store)
    assert set(jobs.stored(store)) == {first.id, second.id}


def test_a_declared_stage_joins_the_registry(monkeypatch):
    monkeypatch.setattr(graph, "_DECLARED", dict(graph._DECLARED))
    assert declare(LINES) is LINES and list(stages())[-1] == "lines"
    assert declare(LINES) is LINES  # a module that is imported twice declares twice
    with pytest.raises(ValueError, match="two stages are called 'lines'"):
        declare(Stage("lines", 2, LinesConfig, {}, f"{HERE}:write_lines"))


def test_a_stage_is_plain_data():
    assert json.dumps({name: stage.version for name, stage in stages().items()})
    assert {LINES: 1}[LINES] == 1
