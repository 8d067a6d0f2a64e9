"""Help: complete, with examples that parse, and light."""

import subprocess
import sys

import pytest

from chunkwise import __version__
from chunkwise.cli.app import command

HEAVY = ("torch", "transformers", "faiss", "numpy", "pyarrow", "numba", "datasets", "matplotlib")


def commands(parser=None, path=()):
    """Every (path, command), groups included."""
    parser = parser or command()
    yield path, parser
    for name, child in getattr(parser, "commands", {}).items():
        yield from commands(child, (*path, name))


ALL = dict(commands())


def examples(help_text):
    lines = iter(help_text.splitlines())
    for line in lines:
        if line.strip() == "Example:":
            break
    for line in lines:
        if not line.strip():
            return
        yield line.strip()


def test_the_verbs_are_there():
    expected = {
        "ablate",
        "plan",
        "datastore",
        "model",
        "train",
        "evaluate",
        "generate",
        "stage",
        "store",
        "verdict",
        "report",
    }
    assert set(ALL[()].commands) == expected
    assert set(ALL[("train",)].commands) == {"base", "retrofit", "twin", "in-prompt", "instruct", "presets"}


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "chunkwise")
def test_every_help_has_an_example_that_parses(cli, path):
    result = cli(*path, "--help")
    assert (result.code, result.err) == (0, "")
    lines = list(examples(result.out))
    assert lines and all(line.startswith("chunkwise ") for line in lines)
    for line in lines:
        import shlex

        words = shlex.split(line)[1:]
        parser, taken = ALL[()], ()
        while hasattr(parser, "commands"):
            taken = (*taken, words.pop(0))
            parser = parser.commands[taken[-1]]
        assert taken[: len(path)] == path
        parser.make_context(" ".join(taken), words)  # raises where an option is unknown or a value does not fit


@pytest.mark.parametrize("path", [path for path, parser in ALL.items() if path], ids=" ".join)
def test_every_option_is_explained(path):
    for parameter in ALL[path].params:
        assert getattr(parameter, "help", None), f"{' '.join(path)}: {parameter.name} has no help"


@pytest.mark.parametrize("name", ["base", "retrofit", "twin", "in-prompt", "instruct"])
def test_a_training_says_what_it_takes_without_steps(cli, name):
    """What the help says is what the code does: the default number of steps, rows of a step and tokens of a row."""
    from chunkwise.cli import settings
    from chunkwise.corpus.config import SequencesConfig
    from chunkwise.training.config import InstructConfig
    from chunkwise.training.options import TrainOptions

    steps = {"base": settings.BASE_STEPS, "instruct": settings.INSTRUCT_STEPS}.get(name, settings.CONTINUED_STEPS)
    train = TrainOptions(steps=steps)
    row_tokens = SequencesConfig().sequence_tokens
    if name == "instruct":
        tuning = InstructConfig(train=train)
        row_tokens = tuning.prompt_tokens + tuning.answer_tokens
    tokens = steps * train.batch_sequences * row_tokens
    words = f"Without --steps it takes {steps} steps, {tokens:,} tokens: {train.batch_sequences} rows of {row_tokens} "
    assert words + "tokens a step." in " ".join(cli("train", name, "--help").out.split())


def test_exit_codes_are_documented(cli):
    text = cli("--help").out
    for code in (0, 1, 2, 3, 130):
        assert f"\n    {code:<4} " in text


def test_help_imports_nothing_heavy():
    paths = [" ".join(path) for path in ALL]
    script = (
        "import sys, io, contextlib\n"
        "from chunkwise.cli.main import main\n"
        f"for path in {paths!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        assert main([*path.split(), '--help']) == 0, path\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_version(cli):
    assert cli("--version").out == f"chunkwise {__version__}\n"


def test_a_group_without_a_command_shows_its_help_and_counts_as_misuse(cli):
    result = cli("train")
    assert result.code == 2 and result.out == "" and "retrofit" in result.err
