"""`chunkwise generate`: text from a model, and the evidence that it read."""

import sys
from dataclasses import dataclass
from typing import Annotated

from typer import Argument, Option

from chunkwise.cli.options import JsonOption, StoreOption, TokenizerOption

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class GenerateOptions:
    """The options of `generate`, in the order of its help."""

    datastore: Annotated[
        str | None,
        Option(help="Datastore to look things up in. Without it nothing is looked up."),
    ] = None
    k: Annotated[
        int | None,
        Option("--k", min=1, help="Neighbours of a chunk. Default: the model's."),
    ] = None
    max_tokens: Annotated[int, Option(min=1, help="New tokens, at most.")] = 64
    question: Annotated[
        bool,
        Option("--question", help="The prompt is a question or instruction, for a tuned model."),
    ] = False
    passages: Annotated[
        int,
        Option(min=0, help="With --question and --datastore: passages in the prompt, best first."),
    ] = 0
    temperature: Annotated[float, Option(min=0, help="0 takes the likeliest token each time.")] = (
        0.0
    )
    seed: Annotated[int, Option(min=0, help="Of the draws at a temperature above 0.")] = 0
    dtype: Annotated[
        str, Option(help="Type of the weights: float32, bfloat16, float16 (GPU only).")
    ] = "float32"
    tokenizer: TokenizerOption = None
    store: StoreOption = None
    as_json: JsonOption = False


def generate(
    options: GenerateOptions,
    model: Annotated[
        str,
        Argument(
            metavar="MODEL",
            help="Model: a folder or key from `chunkwise train`, or a Hugging Face folder.",
        ),
    ],
    prompt: Annotated[
        str,
        Argument(metavar="PROMPT", help="Text to go on from; - reads stdin."),
    ],
) -> None:
    """Go on from a prompt. The new text goes to stdout, what was looked up for it to stderr (or
    both into --json).

    The prompt is padded on the left so that it ends with a chunk: what is found for its last chunk
    serves the first new token. Later lookups follow whenever a chunk is complete.

    \b
    Example:
      chunkwise generate runs/tuned "What does shuffle do?" --question --datastore runs/notes
      chunkwise generate runs/retrofit "A neighbour is" --datastore runs/notes --max-tokens 40
    """
    from chunkwise.core.errors import ConfigError, InputError

    if options.dtype not in DTYPES:
        raise ConfigError(f"unknown --dtype {options.dtype!r}", hint=f"known: {', '.join(DTYPES)}")
    text = sys.stdin.read() if prompt == "-" else prompt
    # passages are found for a question; a text to go on from has no place to put them
    if options.passages and not (options.question and options.datastore):
        raise ConfigError("--passages needs --question and --datastore")
    if not text.strip():
        raise InputError("the prompt holds no text")

    # only now: it imports torch, and a wrong option should not wait seconds for its answer
    from chunkwise.cli.generation import run

    run(options, model, text)
