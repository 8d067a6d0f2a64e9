"""The page on verdicts: its commands and their output, its exit codes, and every key of the JSON."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from chunkwise.lab.terms import METRICS
from chunkwise.lab.verdict.judge import Decision
from chunkwise.lab.verdict.rules import ALIASES
from chunkwise.lab.verdict.tables import SYNONYMS
from tests.cli.conftest import call

PAGE = (Path(__file__).parent.parent.parent / "docs" / "verdict.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def run(folder, block):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["bash", "-euc", block], cwd=folder, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode("utf-8")


def test_the_commands_print_what_the_page_shows(tmp_path):
    first, loop = BLOCKS
    (shown,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert run(tmp_path, first) == shown
    assert run(tmp_path, loop) == "keep the change\n"
    assert "keep wide" in (tmp_path / "verdict.txt").read_text(encoding="utf-8")


def test_keys_codes_and_names_are_all_on_the_page(tmp_path):
    run(tmp_path, BLOCKS[0])
    result = call("verdict", tmp_path / "runs.csv", "--json")
    value = json.loads(result.out)
    for key in [*value, *value["verdicts"][0]]:
        assert f"`{key}`" in PAGE, key
    for decision in Decision:
        assert f"| {decision.exit_code} | {decision} |" in PAGE
    for name in [*METRICS, *ALIASES, *(name for role in ("arm", "seed") for name in SYNONYMS[role])]:
        assert f"`{name}`" in PAGE, name
