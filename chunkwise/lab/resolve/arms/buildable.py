"""Whether an arm can be built on its base: its settings against the sizes of the decoder that it
starts from.

What fits a profile need not fit a decoder: layer 9 of 4, rows longer than its positions, heads that
do not divide its width. All of it follows from the decoder's config.json, so it is asked before
anything runs, and in one place: `resolve` ends with it, whoever calls it (`plan check`, a dry run,
a run). Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from chunkwise.core.errors import ChunkwiseError, ConfigError
from chunkwise.core.io import read_json
from chunkwise.core.packs import PACKAGED
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.resolution import Resolution
from chunkwise.lab.terms import Arm
from chunkwise.model.config import cca_layer_numbers
from chunkwise.model.flops import DecoderSizes
from chunkwise.training.flops import in_prompt_row_tokens, new_decoder_sizes
from chunkwise.training.pretrained import local_folder

_POSITION_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""What families call the longest text that a decoder reads."""
_TEXT_METRICS = {"perplexity", "bits_per_byte"}


@dataclass(frozen=True)
class BaseFacts:
    """What of a base an arm has to fit.

    Attributes:
        name: as messages call it: "the packaged base".
        positions: longest text that it reads, in tokens; None: it states none.
    """

    name: str
    sizes: DecoderSizes
    positions: int | None


def base_facts(profile: Profile) -> BaseFacts | None:
    """The base of a profile: the decoder that is trained in the run, or the config.json of the one
    that is taken as it is. None where that is not on this machine, or names no sizes that we know.

    Raises:
        ConfigError: no packaged base in this installation.
    """
    if profile.base is not None:
        decoder = profile.base.decoder
        sizes = new_decoder_sizes(decoder, profile.tokenizer.vocabulary_size)
        return BaseFacts("the profile's base", sizes, decoder.max_tokens)
    name = profile.pretrained or PACKAGED
    folder = local_folder(name)
    if folder is None or not (folder / "config.json").is_file():
        return None
    values = read_json(folder / "config.json")
    try:
        sizes = DecoderSizes.of_json(values)
    except ConfigError:
        return None
    words = "the packaged base" if name == PACKAGED else f"the base {Path(name).name}"
    return BaseFacts(words, sizes, _positions(values))


def _positions(config: Mapping[str, Any]) -> int | None:
    """The longest text that a config.json states, in tokens."""
    # Of a model that reads more than text.
    text = config.get("text_config") or config
    for key in _POSITION_NAMES:
        if isinstance(text.get(key), int):
            return text[key]
    return None


def unchecked(profile: Profile) -> str:
    """Why the arms could not be held against the base; empty where they were."""
    if base_facts(profile) is not None:
        return ""
    return (
        f"the base {profile.pretrained!r} is not on this machine, or its config.json names no "
        "sizes that are known here: layers, positions, vocabulary and heads of the arms are not "
        "checked"
    )


def unbuildable(resolution: Resolution, profile: Profile) -> dict[str, str]:
    """Id of each arm that cannot be built -> why, and what to write instead.

    Raises:
        ConfigError: the profile itself cannot be built.
    """
    # Prompts have lengths and limits of their own, which a plan of perplexity alone never meets.
    questions = _asks_questions(resolution, profile)
    reason = obstacle(profile, questions=questions)
    if reason:
        raise ConfigError(f"profile {profile.name} cannot be built: {reason}")
    reasons = {}
    for arm_id, arm in resolution.arms.items():
        reason = _obstacle_of(arm, profile, questions)
        if reason:
            reasons[arm_id] = reason
    return reasons


def _asks_questions(resolution: Resolution, profile: Profile) -> bool:
    """Whether any metric is about questions, without which no model is tuned or asked."""
    metrics: set[str] = set()
    for entry in resolution.entries:
        own = [metric.id for metric in entry.metrics if metric.id]
        # As a study measures them: the profile's where an entry names none that is known.
        metrics.update(own or profile.metrics)
    return not metrics <= _TEXT_METRICS


def _obstacle_of(arm: Arm, profile: Profile, questions: bool) -> str:
    try:
        return obstacle(arm.profile(profile), questions=questions)
    except ChunkwiseError as error:
        return str(error)


def obstacle(profile: Profile, *, questions: bool = True) -> str:
    """The first reason why what a profile asks for cannot be built; empty where it can.

    Args:
        questions: whether models are tuned and asked.
    """
    # The first of each kind: the author of a plan can act on one, and the next may follow from it.
    for reason in _reading_obstacles(profile, questions):
        return reason
    try:
        _build_configs(profile)
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    base = base_facts(profile)
    # Of a base that is not here `unchecked` tells the user that nothing was held against it.
    if base is not None:
        for reason in _base_obstacles(profile, base, questions):
            return reason
    return ""


def _build_configs(profile: Profile) -> None:
    """The settings of the trainings, which a profile checks as a whole only in part."""
    if profile.mechanism == "in_prompt":
        profile.in_prompt_config()
    elif profile.mechanism == "cross-attention":
        profile.retrofit_config()
    else:
        profile.twin_config()
    profile.instruct_config()


# --- whatever the base is ------------------------------------------------------------------------


def _reading_obstacles(profile: Profile, questions: bool) -> Iterator[str]:
    """Neighbours that nothing would read or find."""
    retro = profile.retrofit.retro
    m = retro.chunk_tokens
    reads = profile.mechanism in ("cross-attention", "in_prompt")
    if reads and not retro.neighbours:
        yield (
            "with 0 neighbours nothing is retrieved; write REMOVE of chunk-wise cross-attention "
            "(the twin), or 0 for the number of neighbours at evaluation (the gate at 0)"
        )
    rows = profile.evaluation_text.sequence_tokens
    if rows <= m:
        yield (
            f"evaluation rows of {rows:,} tokens hold one chunk of {m}, and neighbours are read "
            f"from the end of a chunk on: nothing would be read; write {2 * m} tokens or more"
        )
    is_retro = profile.mechanism == "cross-attention"
    if is_retro and questions and retro.chunk_alignment == "right":
        yield (
            "chunks that are aligned to the end of the text need whole texts without padding or "
            "cached tokens, and questions are answered with both; write metrics of text alone "
            "(perplexity)"
        )
    # A search keeps K hits once; more cannot be read of its table without another search.
    if reads:
        yield from _table_obstacles(profile, questions)
    if profile.retrofit.lora is not None and find_spec("peft") is None:
        yield (
            "low-rank updates need the package peft, which is not installed; pip install "
            "'chunkwise[lora]'"
        )


def _table_obstacles(profile: Profile, questions: bool) -> Iterator[str]:
    """More neighbours than the tables of them keep."""
    k = max(profile.retrofit.retro.neighbours, profile.neighbours_read)
    counts = {"neighbours": k}
    if questions:
        counts["question_neighbours"] = max(k, profile.qa.passages)
    for section, count in counts.items():
        K = getattr(profile, section).K
        if count > K:
            yield (
                f"{count} neighbours of a chunk are read, and the table of them keeps {K}; read "
                f"{K} or fewer, or set {section}.K to {count} or more"
            )


# --- against the base ----------------------------------------------------------------------------


def _base_obstacles(profile: Profile, base: BaseFacts, questions: bool) -> Iterator[str]:
    yield from _text_obstacles(profile, base, questions)
    if profile.mechanism in ("cross-attention", "wider"):
        yield from _retrieval_obstacles(profile, base)
    vocabulary = _text_vocabulary(profile)
    if vocabulary is not None and vocabulary > base.sizes.vocabulary:
        yield (
            f"a tokenizer of {vocabulary:,} tokens, and {base.name} knows "
            f"{base.sizes.vocabulary:,}; leave tokenizer.pretrained out, which takes the base's own"
        )


def _text_obstacles(profile: Profile, base: BaseFacts, questions: bool) -> Iterator[str]:
    """Texts that are longer than the base reads."""
    if base.positions is None:
        return
    for words, tokens in _longest_texts(profile, questions).items():
        if tokens > base.positions:
            most = f"{base.positions:,}"
            yield (
                f"{words} {tokens:,} tokens long, and {base.name} reads {most} positions; write "
                f"values that give {most} tokens or fewer"
            )


def _longest_texts(profile: Profile, questions: bool) -> Mapping[str, int]:
    """What is read -> its longest row in the decoder, in tokens."""
    training = profile.training_text.sequence_tokens
    evaluation = profile.evaluation_text.sequence_tokens
    m = profile.retrofit.retro.chunk_tokens
    # The keys are the beginnings of the refusals.
    texts = {"rows are": training, "evaluation rows are": evaluation}
    if profile.mechanism == "in_prompt":
        k = profile.retrofit.retro.neighbours
        name = f"rows of {training:,} tokens with {k} neighbours of each chunk in them are"
        texts[name] = in_prompt_row_tokens(training, m, k)
        k = max(1, profile.neighbours_read)
        name = f"evaluation rows of {evaluation:,} tokens with {k} neighbours of each chunk are"
        texts[name] = in_prompt_row_tokens(evaluation, m, k)
    if not questions:
        return texts
    tuning = profile.instruct
    if tuning is not None:
        texts["instructions with their answers are"] = tuning.prompt_tokens + tuning.answer_tokens
    qa = profile.qa
    texts["prompts with their answers are"] = qa.prompt_tokens + qa.max_answer_tokens
    return texts


def _retrieval_obstacles(profile: Profile, base: BaseFacts) -> Iterator[str]:
    """What retrieval cannot be on this decoder."""
    retro = profile.retrofit.retro
    layers = base.sizes.layers
    rule = retro.cca_layers
    try:
        cca_layer_numbers(rule, layers)
    except ConfigError:
        wrong = [str(number) for number in rule if number not in range(1, layers + 1)]
        numbers = ", ".join(wrong)
        # A rule may be wrong without a number that is: then "no layers".
        which = f"layer {numbers}" if len(wrong) == 1 else f"layers {numbers}".strip()
        yield (
            f"no {which}: {base.name} has {layers} layers, counted from 1; write numbers from 1 to "
            f"{layers}, or one mid layer, last layer, all layers"
        )
    if retro.encoder == "decoder" and retro.encoder_layers > layers:
        yield (
            f"an encoder of {retro.encoder_layers} layers cannot be copied from {base.name}, which "
            f"has {layers}; write {layers} or fewer, or take a profile with `encoder: new`"
        )
    yield from _head_obstacles(profile, base)


def _head_obstacles(profile: Profile, base: BaseFacts) -> Iterator[str]:
    """Heads that do not divide the width which they share."""
    retro = profile.retrofit.retro
    width = base.sizes.width
    heads = retro.cca_heads or base.sizes.heads
    if width % heads:
        yield (
            f"{heads} heads of cross-attention do not divide the width {width} of {base.name}; "
            f"write one of {_divisors(width)}"
        )
    if retro.encoder == "decoder":
        return
    E = retro.encoder_width or width
    if retro.encoder_heads is None:
        if E % 2:
            yield f"an encoder {E} wide has no even heads; write an even width"
        return
    # Rotary positions turn the columns of a head in pairs.
    step = 2 if retro.encoder_positions == "rotary" else 1
    if E % (retro.encoder_heads * step):
        yield (
            f"{retro.encoder_heads} heads of the encoder do not divide its width {E} evenly; write "
            f"one of {_divisors(E // step)}"
        )


def _divisors(width: int) -> str:
    """ "1, 2, 4, 8"."""
    divisors = [number for number in range(1, width + 1) if width % number == 0]
    return ", ".join(map(str, divisors))


def _text_vocabulary(profile: Profile) -> int | None:
    """Tokens of the text's tokenizer where it is another one than the base's; None where it is not,
    or not on this machine.
    """
    name = profile.tokenizer.pretrained
    if profile.base is not None or name is None or name == profile.pretrained:
        return None
    folder = local_folder(name)
    if folder is None or not (folder / "tokenizer.json").is_file():
        return None
    tokenizer = read_json(folder / "tokenizer.json")
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    # A unigram tokenizer lists pairs of piece and score there.
    if not isinstance(vocabulary, dict):
        return None
    added = {token["content"] for token in tokenizer.get("added_tokens", ())}
    return len(added.union(vocabulary))
