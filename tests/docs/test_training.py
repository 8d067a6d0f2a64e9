"""The page on training: its commands, with trainings of two steps, and its table of presets."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from chunkwise.core.config import parse_yaml
from chunkwise.training.config import RetrofitConfig, ValidationCondition
from chunkwise.training.curriculum import MadeNeighboursConfig
from chunkwise.training.presets import presets
from tests.cli.conftest import call
from tests.docs.test_tutorial import commands, made_small

PAGE = Path(__file__).parent.parent.parent / "docs" / "training.md"
LAUNCHERS = ("torchrun ", "accelerate ")
SMALL = " --set train.validation_sequences=2 --set text.sequence_tokens=128 --set train.batch_sequences=2"
SMALL += " --set train.microbatch_sequences=1"


def run_all(folder, monkeypatch, *, launched):
    """Every command in order; those that start several processes only where they are asked for."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CHUNKWISE_STORE", str(folder / ".chunkwise"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(PAGE.parent.parent))
    ran = []
    for command in map(made_small, commands(PAGE.read_text(encoding="utf-8"))):
        line = command.replace("\\\n", " ").strip()
        line += SMALL if " train " in line and "presets" not in line else ""
        if line.startswith(LAUNCHERS):
            if launched:
                free = {"torchrun": "--standalone", "accelerate launch": "--main_process_port 0"}
                for launcher, option in free.items():
                    line = line.replace(f"{launcher} ", f"{launcher} {option} ", 1)
                subprocess.run(["bash", "-euc", line], check=True, timeout=900)
                ran.append(line)
        elif line.startswith("chunkwise "):
            words = shlex.split(line)[1:]
            result = call(*words)
            assert result.code == 0, f"{line}\n{result.err}"
            ran.append(line)
        else:
            subprocess.run(["bash", "-euc", command], check=True, timeout=300)
    return ran


def test_the_commands_of_the_page_work(tmp_path, monkeypatch):
    ran = run_all(tmp_path, monkeypatch, launched=False)
    assert len(ran) == 9 and (tmp_path / "runs" / "lora" / "model" / "model.safetensors").exists()
    assert list((tmp_path / "runs" / "curves").glob("base-*/events.*"))


@pytest.mark.slow
def test_the_commands_with_a_launcher_work(tmp_path, monkeypatch):
    ran = run_all(tmp_path, monkeypatch, launched=True)
    assert len(ran) == 11
    for name in ("retrofit", "twin"):
        assert (tmp_path / "runs" / name / "model" / "model.safetensors").exists()


def test_the_made_neighbours_of_the_page_are_a_training():
    page = PAGE.read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    training = RetrofitConfig.parse(parse_yaml(example, "the page"))
    assert training.made_neighbours.last_step == 1000 and training.train.steps == 1500
    assert set(training.validation_conditions) == set(get_args(ValidationCondition))
    defaults = dict(re.findall(r"^\|[^`\n]*`made_neighbours\.(\w+)` \| ([\w.]+) \|", page, re.MULTILINE))
    assert defaults == {name: str(value) for name, value in MadeNeighboursConfig().model_dump().items()}
    conditions = page.partition("| condition |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| (\w+) \|", conditions, re.MULTILINE) == list(training.validation_conditions)


def test_the_table_is_what_the_presets_are():
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"\| `([a-z0-9+-]+)` \|(.*)\|", line):
            rows[match[1]] = [cell.strip() for cell in match[2].split("|")]
    assert rows.keys() == presets().keys()
    for name, (rate, batch, steps, warmup, minimum, _) in rows.items():
        preset = presets()[name]
        train = preset.train
        assert float(rate.split()[0].rstrip(",")) == train["learning_rate"]
        if "final_share" in train:
            end = float(rate.split()[2].rstrip(","))
            assert end == pytest.approx(train["learning_rate"] * train["final_share"])
        assert train.get("schedule", "") in rate and ("," in rate) == ("schedule" in train)
        assert int(batch.replace(",", "")) == train["batch_sequences"]
        assert int(steps.replace(",", "")) == train["steps"]
        assert bool(warmup) == bool(preset.warmup)
        assert (minimum in ("at 23.75M samples", "the same")) == bool(preset.decay)
