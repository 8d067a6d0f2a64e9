"""The experiment on the onset of reading: where something sets in, its variants, and the page made of its records."""

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from chunkwise.core.store import Store
from experiments import onset, onset_curves

RESULTS = Path(__file__).parent.parent.parent / "docs" / "results" / "onset"


def curve_of(**losses):
    """Points 20 steps and 40,960 tokens apart; a loss that is not given is 3 nats."""
    names = ("found", "off", "random", "oracle", "shifted_oracle", "twin")
    [count] = {len(values) for values in losses.values()}
    return [
        {"step": 20 * at, "tokens": 40_960 * at} | {name: losses.get(name, [3.0] * count)[at] for name in names}
        for at in range(count)
    ]


def record(variant="curriculum", replicate=0, found=2.9, size="1.4m", steps=40):
    run = onset.Run(size, "python", variant, replicate, steps)
    settings = onset.settings_of(onset.config_of(size, "python", variant, steps))
    return {
        "id": run.id, "size": size, "corpus": "python", "variant": variant, "replicate": replicate,
        "steps": steps, "settings": settings, "machine": "CPU", "dtype": "float32",
        "tokens": 81_920, "seconds": 10.0, "flops": 1,
        "parameters": {"decoder": 1_400_000, "retrieval": 700_000, "total": 2_100_000, "trainable": 2_100_000},
        "curve": curve_of(found=[3.0, 3.1, found], shifted_oracle=[3.0, 2.8, 1.5]),
        "twin": {"curve": curve_of(twin=[3.0, 2.99, 2.98]), "seconds": 5.0, "flops": 1},
        "final": {"found": found, "off": 3.0, "random": 3.1, "oracle": 1.5, "twin": 2.98},
        "overlap": [
            {"above": 0.0, "at_most": 0.125, "chunks": 2, "tokens": 90, "found": 3.01, "off": 3.0, "twin": 3.0},
            {"above": 0.125, "at_most": 1.0, "chunks": 0, "tokens": 0, "found": None, "off": None, "twin": None},
        ],
    }  # fmt: skip


def page_of(runs, tmp_path):
    (tmp_path / "runs.json").write_text(json.dumps(runs), encoding="utf-8")
    onset.render(tmp_path)
    return (tmp_path / "README.md").read_text(encoding="utf-8")


# --- onset


def test_something_holds_for_good_from_the_first_point_of_the_last_unbroken_stretch():
    assert onset_curves.first_for_good([False, True, False, True, True]) == 3
    assert onset_curves.first_for_good([True, True]) == 0
    assert onset_curves.first_for_good([True, False]) is None
    assert onset_curves.first_for_good([]) is None


def test_copying_sets_in_between_two_validation_points():
    curve = curve_of(shifted_oracle=[3.0, 2.95, 2.89, 1.0])
    assert str(onset_curves.copying_onset(curve)) == "between step 20 and 40 (0.04M to 0.08M tokens)"


def test_copying_that_is_lost_again_has_not_set_in():
    assert onset_curves.copying_onset(curve_of(shifted_oracle=[3.0, 2.0, 2.95])) is None
    assert onset_curves.copying_onset(curve_of(shifted_oracle=[3.0, 2.0, 2.95, 2.0])).step == 60


def test_reading_is_measured_against_the_gate_at_the_same_point():
    curve = curve_of(found=[3.0, 2.9, 2.8], off=[3.0, 2.9, 2.82])
    found = onset_curves.reading_onset(curve, curve_of(twin=[3.0, 2.95, 2.9]))
    assert (found.after_step, found.step) == (20, 40)


def test_no_reading_without_a_gain_on_the_twin():
    curve = curve_of(found=[3.0, 2.9, 2.8], off=[3.0, 3.0, 3.0])
    assert onset_curves.reading_onset(curve, curve_of(twin=[3.0, 2.9, 2.8])) is None


# --- variants


@pytest.mark.parametrize("corpus", ["python", "python, chunks of 32"])
@pytest.mark.parametrize("steps", [6, 400, 1000])
@pytest.mark.parametrize("size", onset.SIZES)
def test_every_variant_is_a_training_of_its_own_that_fits_its_steps(size, steps, corpus):
    configs = {name: onset.config_of(size, corpus, name, steps) for name in onset.VARIANTS}
    for name, config in configs.items():
        times = {"twice": 2, "4": 4}[name.split()[0]] if "as long" in name else 1
        assert config.train.steps == times * steps
        assert config.retro.chunk_tokens == onset.CORPORA[corpus].chunk_tokens
    if steps >= 400:  # below, phases of no step make some variants equal
        assert len({config.model_dump_json() for config in configs.values()}) == len(configs)


def test_phases_keep_their_share_of_the_steps():
    made, longer = (onset.config_of("1.4m", "python", "curriculum", steps).made_neighbours for steps in (520, 1040))
    for phase in onset_curves.PHASES:
        assert getattr(longer, phase) == 2 * getattr(made, phase)


@pytest.mark.parametrize("variant", ["random offsets from the start", "no aligned phase", "no widening"])
def test_without_a_phase_the_fall_keeps_its_place(variant):
    made, changed = (onset.config_of("1.4m", "python", name, 400).made_neighbours for name in ("curriculum", variant))
    assert changed.last_step == made.last_step


def test_an_id_names_its_run():
    run = onset.Run("5m", "python, chunks of 32", "4 times as long, share 0.75", 2, 520)
    assert onset.Run.parse(run.id) == run


@pytest.mark.parametrize(
    "text",
    ["2m/python/520/curriculum/0", "5m/python/520/curricula/0", "5m/python/520", "# 5m", "5m/python/x/curriculum/0"],
)
def test_an_id_of_no_run_is_refused(text):
    with pytest.raises(ValueError, match="expected SIZE/CORPUS/STEPS/VARIANT/REPLICATE"):
        onset.Run.parse(text)


def test_a_pack_holds_what_the_runs_read_without_the_search_index(tmp_path):
    store = Store(tmp_path / "store")

    def artefact(name, *files):
        def build(folder, scratch):
            for file in files:
                (folder / file).parent.mkdir(exist_ok=True)
                (folder / file).write_text(f"{name} {file}")
            return {}

        return store.make(name, 1, {}, {}, build)

    names = [field.name for field in dataclasses.fields(onset.Material) if field.name != "packaged"]
    material = onset.Material(**{name: artefact(name, "a.npy", "bm25/b.npy") for name in names}, packaged=None)
    onset.pack({"docs": material}, tmp_path / "one.tar.xz")
    for _ in range(2):  # a second process finds it unpacked
        [(corpus, unpacked)] = onset.unpack(tmp_path / "one.tar.xz", tmp_path / "work").items()
    assert corpus == "docs"
    assert unpacked.packaged is None
    for name in names:
        copied = getattr(unpacked, name)
        assert copied.digest == getattr(material, name).digest
        assert copied.file("a.npy").read_text() == f"{name} a.npy"
        assert not copied.file("bm25/b.npy").exists()


# --- records and page


def test_records_stay_and_those_of_other_settings_are_not_shown(tmp_path):
    other = record("no fall", found=2.123)
    other["settings"] = other["settings"] | {"learning_rate": 1.0}
    unknown = record("share 0.5", found=2.345) | {"id": "1.4m/python/40/a variant that was/0"}
    for one in (record(replicate=1), record("found only"), record(replicate=0, found=2.8), other, unknown):
        onset.merge(tmp_path, one)
    onset.merge(tmp_path, record(replicate=0, found=2.7))  # the same run again
    runs = onset.read_runs(tmp_path)
    assert [(run["variant"], run["replicate"]) for run in runs] == [
        ("curriculum", 0), ("curriculum", 1), ("found only", 0), ("no fall", 0), ("share 0.5", 0)
    ]  # fmt: skip
    assert runs[0]["final"]["found"] == 2.7
    assert [path.name for path in tmp_path.iterdir()] == ["runs.json"]  # no lock, nothing partial
    onset.render(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "(3 runs)" in text and "2.123" not in text and "2.345" not in text


def test_a_setting_that_is_younger_than_a_record_had_its_default():
    old = record()
    del old["settings"]["made_neighbours"]["decoder_rate"]
    assert onset.is_current(old)
    assert not onset.is_current(old | {"settings": old["settings"] | {"made_neighbours": {"share": 0.9}}})


def broken(run, material, store):
    """What `perform` does for a run that goes wrong in a way that nobody foresaw."""
    if run.replicate:
        raise AttributeError("nobody foresaw this")
    return record(run.variant)


def test_an_error_in_one_run_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(onset, "perform", broken)
    runs = [
        onset.Run("1.4m", "python", name, replicate, 40) for name in ("no fall", "share 0.5") for replicate in (1, 0)
    ]
    errors = onset.perform_all(runs, {"python": None}, argparse.Namespace(workers=1, out=tmp_path))
    assert errors == [f"{run.id}: AttributeError: nobody foresaw this" for run in runs if run.replicate]
    assert [run["variant"] for run in onset.read_runs(tmp_path)] == ["no fall", "share 0.5"]


def test_the_page_says_what_the_records_say(tmp_path):
    runs = [record(replicate=number, found=found) for number, found in enumerate((2.88, 2.9, 2.92))]
    text = page_of([*runs, record("found only", found=3.0), record("no fall", found=3.2)], tmp_path)
    place = "| 1.4m, python, 40 steps"
    interval = "between step 0 and 20 (0.00M to 0.04M tokens)"
    assert f"{place} | curriculum | 0 | {interval} | between step 20 and 40 (0.04M to 0.08M tokens) |" in text
    assert f"{place} | found only | 0 | {interval} | never |" in text
    assert "| 2.900 | 3.000 | 3.100 | 1.500 | 2.980 | -0.080 | -7.7% |" in text
    # t with 2 degrees of freedom: 4.303 * 0.02 / sqrt(3) = 0.0497 on each side
    assert "-0.080 [-0.130, -0.030]" in text
    assert "| no fall | 0 to 20 | never | 3.200 |" in text
    assert "| +0.220 | +24.6% | CPU |" in text
    assert f"{place} | 0.0% to 12.5% | 90 | -0.010 (-0.010 to -0.010) |" in text
    assert f"{place} | 12.5% to 100.0% | 0 | – | – |" in text


def test_a_longer_training_stays_in_the_group_of_its_baseline(tmp_path):
    longer = record("4 times as long", found=2.7)
    for one in (record(), longer):
        onset.merge(tmp_path, one)
    assert [run["id"] for run in onset.read_runs(tmp_path)] == [record()["id"], longer["id"]]
    assert "| 4 times as long | 0 to 20 | 20 to 40 | 2.700 |" in page_of(onset.read_runs(tmp_path), tmp_path)


def test_a_training_that_diverged_is_recorded_and_shown(tmp_path):
    failed = {name: value for name, value in record("no fall").items() if name in
              ("id", "size", "corpus", "variant", "replicate", "steps", "settings", "machine")}  # fmt: skip
    failed["failed"] = "the loss became nan by step 20 of 40"
    text = page_of([record(), failed], tmp_path)
    assert "- 1.4m, python, 40 steps, no fall, replicate 0: the loss became nan by step 20 of 40." in text
    assert "no fall;" not in text.partition("not run:")[2]


def test_forms_are_shown_where_both_trainings_are_there(tmp_path):
    runs = [record(), record("found only", found=3.0), record("copying form", found=2.5)]
    text = page_of([*runs, record("copying form without curriculum", found=2.95)], tmp_path)
    # found, oracle and random less the twin, each without and with the curriculum
    assert "| copying form | -0.030 | -0.480 | -1.480 | -1.480 | +0.120 | +0.120 |" in text
    assert "| as published | +0.020 | -0.080 |" in text
    assert "| copying form |" not in page_of(runs, tmp_path).partition("## Other forms")[2].partition("## By")[0]


def test_groups_come_by_size(tmp_path):
    text = page_of([record(size=size) for size in ("134m", "5m", "1.4m", "34m")], tmp_path)
    places = [text.index(f"| {size}, python, 40 steps |") for size in ("1.4m", "5m", "34m", "134m")]
    assert places == sorted(places)


def test_the_page_lists_what_is_missing(tmp_path):
    text = page_of([record(), record("share 0.5")], tmp_path)
    [line] = [line for line in text.splitlines() if "not run:" in line]
    names = line.partition("not run: ")[2].rstrip(".").split("; ")
    assert names == [name for name in onset.VARIANTS if name not in ("curriculum", "share 0.5")]
    assert "curriculum has 1 of 3 replicates" in text
    few = page_of([record(), record("found only")], tmp_path)
    assert "- 1.4m, python, 40 steps: nothing but curriculum and found only." in few
    assert "- 1.4m: nothing was run on python, chunks of 32; docs; mix." in text
    assert "- 5m: nothing was run on python; python, chunks of 32; docs; mix." in text


def test_without_records_there_is_a_page_that_says_so(tmp_path):
    assert "(0 runs)" in page_of([], tmp_path)
    assert not list(tmp_path.glob("*.svg"))


def test_records_of_later_replicates_alone_have_no_figure_of_variants(tmp_path):
    """Variants are compared in replicate 0; a machine that ran another one alone has no panel to draw."""
    text = page_of([record(replicate=1)], tmp_path)
    assert "variants.svg" not in text and "curves.svg" in text
    assert sorted(path.name for path in tmp_path.glob("*.svg")) == ["curves.svg", "onset.svg"]


def test_the_same_records_give_the_same_bytes(tmp_path):
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        place.mkdir()
        page_of([record(), record("no fall", size="5m")], place)
    for name in ("README.md", "curves.svg", "onset.svg", "variants.svg"):
        first, second = ((place / name).read_bytes() for place in places)
        assert first == second


def test_the_page_in_the_documentation_is_made_of_its_records(tmp_path):
    if not (RESULTS / "runs.json").exists():
        pytest.skip("docs/results/onset/runs.json is not there: the experiment has not been run")
    shutil.copyfile(RESULTS / "runs.json", tmp_path / "runs.json")
    onset.render(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == (RESULTS / "README.md").read_text(encoding="utf-8")
