"""The set-up script, driven with a PATH that holds only what the test puts there, and the package's own metadata."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Stands in for a Python: answers what the script asks, and logs each call of pip with the index it would look in.
FAKE_PYTHON = """#!{bash}
case "$*" in
  --version) echo "Python {version}" ;;
  *version_info\\ \\<*) exit {too_old} ;;
  *"import ensurepip"*) exit {bare} ;;
  *hashlib*) exec {real} "$@" ;;
  "-m venv"*) {venv} rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  "-m pip --version") ;;
  "-m pip install"*) echo "$* index=${{PIP_EXTRA_INDEX_URL:-}}" >> pip.log; {pip} ;;
  *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""


class Machine:
    """A checkout without .venv, on a machine with the commands that we choose."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.bin = folder / "checkout", folder / "bin"
        (self.checkout / "scripts").mkdir(parents=True)
        for name in ("pyproject.toml", "constraints.txt", "scripts/setup.sh"):
            shutil.copy(ROOT / name, self.checkout / name)
        self.bin.mkdir()
        for name in ("bash", "env", "dirname", "df", "grep", "tail", "mkdir", "cp", "rm"):
            (self.bin / name).symlink_to(shutil.which(name))

    def has_python(self, name="python3", version="3.11.7", too_old=0, bare=0, venv="", pip="true"):
        values = {"version": version, "too_old": too_old, "bare": bare, "venv": venv, "pip": pip}
        (self.bin / name).write_text(FAKE_PYTHON.format(bash=shutil.which("bash"), real=sys.executable, **values))
        (self.bin / name).chmod(0o755)
        return self

    def sets_up(self, group="base", **environment):
        command = [self.checkout / "scripts" / "setup.sh", group]
        environment = {"PATH": str(self.bin), "HOME": str(self.checkout), **environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    def refuses(self, *arguments, **environment):
        result = self.sets_up(*arguments, **environment)
        lines = [line for line in result.stderr.splitlines() if not line.startswith("chunkwise: ")]
        assert result.returncode == 1 and result.stdout == "" and len(lines) == 1, result
        return lines[0]

    def pip_calls(self):
        log = self.checkout / "pip.log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_set_up_installs_torch_first_then_the_package_and_the_second_call_nothing(machine):
    machine.has_python()
    assert machine.sets_up().returncode == 0
    torch, package = machine.pip_calls()
    assert "-c constraints.txt torch index=" in torch
    assert "-c constraints.txt -e .[lab] index=" in package
    again = machine.sets_up()
    assert (again.returncode, again.stderr, len(machine.pip_calls())) == (0, "", 2)


def test_the_test_set_up_contains_the_demo_but_not_the_other_way_round(machine):
    machine.has_python()
    machine.sets_up("base")
    machine.sets_up("dev")
    assert "-e .[dev] " in machine.pip_calls()[3]
    machine.sets_up("base")
    machine.sets_up("dev")
    assert len(machine.pip_calls()) == 4


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_change_of_what_is_required_installs_again(machine, name):
    machine.has_python().sets_up()
    with open(machine.checkout / name, "a") as file:
        file.write("# changed\n")
    assert machine.sets_up().returncode == 0
    assert len(machine.pip_calls()) == 4


def test_the_torch_index_is_for_torch_alone(machine):
    machine.has_python()
    machine.sets_up(CHUNKWISE_TORCH_INDEX="https://cpu.example", PIP_EXTRA_INDEX_URL="https://own.example")
    torch, package = machine.pip_calls()
    assert torch.endswith("index=https://cpu.example https://own.example")
    assert package.endswith("index=https://own.example")


def test_no_python(machine):
    assert machine.refuses() == (
        "error: chunkwise needs Python 3.11 or newer and found none; "
        "install it, or name one with PYTHON=/path/to/python3.11"
    )


def test_an_old_python(machine):
    machine.has_python(version="3.9.2", too_old=1)
    assert "needs Python 3.11 or newer and found python3 is 3.9.2;" in machine.refuses()
    assert not (machine.checkout / ".venv").exists()


def test_an_old_python_is_passed_over_for_a_newer_one(machine):
    machine.has_python("python3", version="3.9.2", too_old=1).has_python("python3.12", version="3.12.1")
    assert "with python3.12" in machine.sets_up().stderr


def test_the_python_that_is_asked_for_is_taken_and_no_other(machine):
    machine.has_python("python3.11").has_python("mine")
    assert "found none" in machine.refuses(PYTHON="absent")
    assert "with mine" in machine.sets_up(PYTHON="mine").stderr


def test_a_python_without_venv(machine):
    machine.has_python(bare=1)
    assert "python3 cannot make virtual environments" in machine.refuses()
    assert "python3-venv" in machine.refuses()


NO_NETWORK = "WARNING: Retrying: NewConnectionError('Failed to establish a new connection')"


@pytest.mark.parametrize(
    ("pip", "sentence"),
    [
        (
            f'echo "{NO_NETWORK}"; echo "ERROR: No matching distribution"; exit 1',
            "package index cannot be reached to install torch",
        ),
        ('echo "ERROR: [Errno 28] No space left on device"; exit 1', "the disk is full: .* free about 4 GB"),
        (
            'echo "ERROR: no wheel for this machine"; exit 1',
            "could not install torch: ERROR: no wheel for this machine",
        ),
        ("exit 1", "could not install torch: it ended without a word"),
        ('case "$*" in *" -e "*) echo "ERROR: x"; exit 1;; esac', "could not install chunkwise: ERROR: x"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_the_next_call_tries_again(machine, pip, sentence):
    machine.has_python(pip=pip)
    assert re.search(sentence, machine.refuses())
    calls = len(machine.pip_calls())
    assert re.search(sentence, machine.refuses())
    assert len(machine.pip_calls()) == 2 * calls


def test_a_virtual_environment_that_cannot_be_made(machine):
    machine.has_python(venv='echo "OSError: [Errno 28] No space left on device"; exit 1;')
    assert "the disk is full" in machine.refuses() and "make a virtual environment" in machine.refuses()


def test_a_half_made_virtual_environment_is_made_again(machine):
    machine.has_python()
    (machine.checkout / ".venv" / "bin").mkdir(parents=True)
    (machine.checkout / ".venv" / "bin" / "python").write_text("half a file")
    assert machine.sets_up().returncode == 0
    assert len(machine.pip_calls()) == 2


def test_every_requirement_is_pinned_to_a_version_that_it_allows():
    pins = dict(
        re.split("==", line.strip().lower().replace("_", "-"))
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    )
    extras = PROJECT["project"]["optional-dependencies"].values()
    for text in [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]:
        requirement = Requirement(text)
        name = requirement.name.lower().replace("_", "-")
        if name != "chunkwise":
            assert requirement.specifier.contains(pins[name]), f"{text} does not allow {pins[name]}"


def test_every_extra_that_is_named_brings_its_package():
    from chunkwise.core.extras import EXTRAS

    optional = PROJECT["project"]["optional-dependencies"]
    base = {Requirement(text).name for text in PROJECT["project"]["dependencies"]}
    for package, extra in EXTRAS.items():
        assert package in {Requirement(text).name for text in optional[extra]} and package not in base


@pytest.mark.slow
def test_the_bare_package_loads_a_model_generates_and_names_what_it_lacks(tmp_path):
    """Into a virtual environment that holds nothing else."""

    def run(*command, **options):
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, **options)

    run(sys.executable, "-m", "venv", "bare", check=True)
    python, chunkwise = tmp_path / "bare/bin/python", tmp_path / "bare/bin/chunkwise"
    pip = (python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt")
    source = tmp_path / "source"  # setuptools leaves a build folder in what it builds from
    shutil.copytree(ROOT / "chunkwise", source / "chunkwise", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for target in ("torch", str(source)):
        done = run(*pip, target)
        assert done.returncode == 0, done.stderr
    done = run(python, "-c", BARE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4", "pip", "install", '"chunkwise[data]"']
    plan = tmp_path / "plan.md"
    plan.write_text((ROOT / "chunkwise/packs/laptop/instructretro.plan.md").read_text())
    checked = run(chunkwise, "plan", "check", "instructretro")
    assert checked.returncode == 0 and "cross-attention" in checked.stdout, checked.stderr
    built = run(chunkwise, "datastore", "build", plan, "--store", tmp_path / "store")
    assert built.returncode == 1 and 'hint: pip install "chunkwise[data]"' in built.stderr


BARE = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
import chunkwise
from chunkwise.core.errors import MachineError

config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
model = chunkwise.RetroForCausalLM.from_decoder(
    LlamaForCausalLM(config), chunkwise.RetroOptions(chunk_tokens=4, cca_layers=(1,), encoder_layers=1)
)
model.save_pretrained("model")
model = chunkwise.RetroForCausalLM.from_pretrained("model").eval()
written = model.generate(torch.arange(1, 9)[None], min_new_tokens=4, max_new_tokens=4, do_sample=False)
print(written.shape[1] - 8)
try:
    chunkwise.Datastore.build(["a text"], store=chunkwise.Store("store"))
except MachineError as error:
    print(error.hint)
"""


def data_files(package: Path) -> list[str]:
    """What is no code and no cache, from the package's folder on."""
    code = {".py", ".pyc", ".nbi", ".nbc"}
    files = (path for path in package.rglob("*") if path.is_file() and path.suffix not in code)
    return sorted(str(path.relative_to(package)) for path in files)


def test_all_data_files_of_the_package_are_installed():
    package = ROOT / "chunkwise"
    globs = PROJECT["tool"]["setuptools"]["package-data"]["chunkwise"]
    installed = {str(path.relative_to(package)) for pattern in globs for path in package.glob(pattern)}
    assert "packs/laptop/base/model.safetensors" in installed
    assert [path for path in data_files(package) if path not in installed] == []


def test_every_folder_with_python_is_a_package():
    for path in (ROOT / "chunkwise").rglob("*.py"):
        assert (path.parent / "__init__.py").exists(), f"{path.parent} has no __init__.py and would not be installed"


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path):
    ignored = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "source", ignore=ignored)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--target", tmp_path / "site"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, tmp_path / "source"], check=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-m", "chunkwise.cli.main", "--help"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and "ablate" in result.stdout, result.stderr
    script = (tmp_path / "site" / "bin" / "chunkwise").read_text()
    assert "from chunkwise.cli.main import main" in script
    where = [sys.executable, "-c", "import chunkwise; print(chunkwise.__file__)"]
    place = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert place.startswith(str(tmp_path))
    assert data_files(tmp_path / "site" / "chunkwise") == data_files(ROOT / "chunkwise")
    command = [sys.executable, "-m", "chunkwise.cli.main", "plan", "check", "mechanism"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and "cross-attention" in result.stdout, result.stderr
