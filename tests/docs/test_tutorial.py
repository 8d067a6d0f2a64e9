"""The tutorial's commands, run in order in an empty folder, with trainings of two steps."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import call

PAGE = Path(__file__).parent.parent.parent / "docs" / "tutorial.md"
MODULES = "argparse calendar collections csv decimal email functools heapq http inspect json logging optparse pathlib"
MODULES += " queue random shutil socket statistics string struct tarfile textwrap threading time typing unittest uuid"


def commands(text: str):
    """Commands of the blocks marked `sh`; a block that begins with another program is one command."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if not block.startswith("chunkwise "):
            yield block
        else:
            yield from block.replace("\\\n", " ").strip().splitlines()


def made_small(command: str) -> str:
    """Trainings of two steps with a short batch, evaluation on less text, fewer modules."""
    command = re.sub(r"--steps \d+", "--steps 2", command)
    if command.startswith("chunkwise evaluate perplexity"):
        command += " --set text.max_tokens=2000"
    return re.sub(r"for name in .*?; do", f"for name in {MODULES}; do", command, flags=re.DOTALL)


def test_every_command_of_the_tutorial_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHUNKWISE_STORE", str(tmp_path / ".chunkwise"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    outputs = {}
    for command in map(made_small, commands(PAGE.read_text(encoding="utf-8"))):
        if command.startswith("chunkwise "):
            words = shlex.split(command)[1:]
            result = call(*words)
            assert result.code == 0, f"{command}\n{result.err}"
            outputs[" ".join(words[:2])] = result
        else:
            subprocess.run(["bash", "-euc", command], check=True, timeout=120)
    assert {"datastore build", "train base", "train retrofit", "train twin", "store verify"} <= outputs.keys()
    assert "random.txt" in outputs["datastore search"].out
    assert outputs["evaluate perplexity"].out.splitlines()[1].startswith("none")
    assert "lookup 1: " in outputs["generate runs/retrofit"].err and outputs["generate runs/retrofit"].out.strip()
    assert outputs["store verify"].out.endswith("artefacts are sound\n")


def test_the_tutorial_names_every_verb_of_the_flow():
    text = PAGE.read_text(encoding="utf-8")
    for words in ("datastore build", "datastore search", "train base", "train retrofit", "train twin", "generate"):
        assert f"chunkwise {words} " in text
