"""Write docs/cli.md from the command line itself: python scripts/cli_docs.py (tests/docs checks that it was run)."""

from pathlib import Path

from chunkwise.cli.app import command

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
WIDTH = 100
HEAD = """# Command line

What `chunkwise COMMAND --help` prints, for every command. Written by `python scripts/cli_docs.py`; do not edit.

[The tutorial](tutorial.md) shows them in use.
"""


def render() -> str:
    """The page."""
    root = command()
    blocks = [HEAD]
    for title, text in _helps(root, "chunkwise", None):
        blocks.append(f"## {title}\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(blocks)


def _helps(parser, name, parent):
    """(title, help) of a command and of those below it."""
    context = parser.context_class(
        parser,
        info_name=name,
        parent=parent,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    yield context.command_path, parser.get_help(context)
    for below, child in getattr(parser, "commands", {}).items():
        yield from _helps(child, below, context)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render(), encoding="utf-8")
