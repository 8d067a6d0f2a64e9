"""What a training refuses of its model, told from numbers alone: no torch is imported, so that a
command line can ask before anything is built.
"""

from __future__ import annotations

from chunkwise.core.errors import ConfigError


def require_reach(max_tokens: int, tokens: int) -> None:
    """Refuse rows longer than the decoder reads: ConfigError."""
    if tokens > max_tokens:
        raise ConfigError(
            f"rows of {tokens} tokens do not fit a decoder that reads {max_tokens}",
            hint="raise decoder.max_tokens, or shorten the rows",
        )


def require_gate(gate: int, has_retrieval: bool) -> None:
    """Refuse to open a gate that a plain decoder does not have: ConfigError."""
    if gate and not has_retrieval:
        raise ConfigError(
            "gate=1 needs a model with retrieval, got a plain decoder",
            hint="tune the twin with gate=0",
        )
