"""What a person or a plan may choose about a Retro model; light to import, unlike `retro_config`,
its form on disk.

Layers are counted from 1, as the papers count them.

Sources: RETRO = Borgeaud et al. 2021, arXiv:2112.04426; InstructRetro = Wang et al. 2023,
arXiv:2310.07713; Megatron = NVIDIA's Megatron-LM, tag InstructRetro, the code that InstructRetro's
published checkpoints belong to. Where Megatron departs from the papers, its way is a value of a
field, and `MEGATRON` sets all of them.
"""

from typing import Literal

import pydantic

from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError

RETRO = "arXiv:2112.04426"
INSTRUCTRETRO = "arXiv:2310.07713"
MEGATRON_LM = "Megatron-LM, tag InstructRetro"


ENCODER_SHAPE = (
    "encoder_heads",
    "encoder_feed_forward",
    "encoder_feed_forward_width",
    "encoder_embeddings",
    "encoder_positions",
    "encoder_dropout",
    "encoder_outer_norms",
)
"""Fields that shape a new encoder; a copy of the decoder's layers has the decoder's shape."""


class RetroOptions(Config):
    """The choices that turn a decoder into a Retro model; the defaults are RETRO's, departures are
    stated.

    Four of them depart from both papers, for small models and short training: `encoder: decoder`,
    `previous_token_keys`, `similarity_init` and `null_key`. All leave a fresh model equal to its
    decoder.
    """

    chunk_tokens: int = pydantic.Field(
        default=64, ge=1, description="m: tokens of a chunk; neighbours are r = 2m tokens long."
    )
    neighbours: int = pydantic.Field(
        default=2,
        ge=0,
        le=128,
        description="k: neighbours asked for when generating; any k may be given to forward().",
    )
    cca_layers: Literal["retro", "middle", "last", "all"] | tuple[int, ...] = pydantic.Field(
        default="retro", description="A rule, or layer numbers from 1."
    )
    encoder: Literal["new", "decoder"] = pydantic.Field(
        default="new",
        description=(
            "new: RETRO's bidirectional encoder with fresh weights. decoder (departure from the "
            "papers): a causal copy of the decoder's first encoder_layers layers, which hands out "
            "each token's embedding beside its state; see model.decoder_encoder."
        ),
    )
    encoder_layers: int = pydantic.Field(
        default=2, ge=0, le=48, description="0 reads the neighbours' normed token embeddings."
    )
    encoder_width: int | None = pydantic.Field(
        default=None,
        ge=8,
        description="None is the decoder's width; otherwise the shared embeddings are projected.",
    )
    encoder_heads: int | None = pydantic.Field(
        default=None,
        ge=1,
        description="Heads of the encoder; None: heads of 64, or the widest that divide its width.",
    )
    encoder_feed_forward: Literal["gelu", "swiglu"] = pydantic.Field(
        default="gelu", description="swiglu: silu(gate) * up, three matrices (Megatron)."
    )
    encoder_feed_forward_width: int | None = pydantic.Field(
        default=None,
        ge=8,
        description="Inner width; None: 4 encoder widths, for swiglu as many weights (8/3 widths).",
    )
    encoder_embeddings: Literal["shared", "own"] = pydantic.Field(
        default="shared",
        description=(
            "shared: the decoder's (InstructRetro; RETRO's 'shared embeddings', within 0.001 bits "
            "per byte of its default). own: a table of the encoder's width (RETRO's default), "
            "which starts from the decoder's where the widths agree."
        ),
    )
    encoder_positions: Literal["rotary", "none"] = pydantic.Field(
        default="rotary",
        description=(
            "rotary: positions inside a neighbour (RETRO has relative ones, of another form). none "
            "(Megatron with rotary decoders): to the encoder a neighbour is a bag of tokens."
        ),
    )
    encoder_dropout: float = pydantic.Field(
        default=0.0,
        ge=0,
        lt=1,
        description="On what each branch adds and on self-attention's weights; Megatron 0.1.",
    )
    encoder_outer_norms: bool = pydantic.Field(
        default=True,
        description=(
            "Embeddings are normed on entry (a trained decoder's have whatever scale its training "
            "left) and states on exit. False: neither (Megatron)."
        ),
    )
    norm: Literal["rms", "layer"] = pydantic.Field(
        default="rms", description="rms: RMSNorm (RETRO). layer: LayerNorm with bias (Megatron)."
    )
    norm_epsilon: float = pydantic.Field(
        default=1e-6, gt=0, description="Added to the variance; Megatron 1e-5."
    )
    query_conditioning: bool = pydantic.Field(
        default=True,
        description="Encoder layer 1 cross-attends to the query chunk at the first CCA layer.",
    )
    continuation: Literal["both", "neighbour", "continuation"] = pydantic.Field(
        default="both", description="Both halves of [neighbour, continuation], or one of them."
    )
    relative_positions: Literal["retro", "table", "none"] = pydantic.Field(
        default="retro",
        description=(
            "What is added to the logit of head and distance. retro: a learned linear map of the "
            "distance's sines and cosines (RETRO, appendix on positions). table: a learned number "
            "for each distance. none (Megatron)."
        ),
    )
    chunk_alignment: Literal["left", "right"] = pydantic.Field(
        default="left",
        description=(
            "left: chunk 0 starts with the text, a shorter last one has no neighbours. right "
            "(Megatron): chunks end with the text and the first one is the short one; for scoring, "
            "generate() refuses it, because the chunks of a text would move with every token."
        ),
    )
    missing_tokens: Literal["masked", "read"] = pydantic.Field(
        default="masked",
        description=(
            "masked: tokens that a neighbour lacks, and places that a short query chunk lacks, are "
            "not read. read (Megatron): a neighbour is read as it is given, padding and all, and "
            "the short chunk's places as zeros. A neighbour without any token is never read."
        ),
    )
    gate: float = pydantic.Field(
        default=1.0, description="Fixed factor on what CCA adds; 0 skips retrieval altogether."
    )
    learned_gate: Literal["none", "scalar", "tanh"] = pydantic.Field(
        default="none",
        description=(
            "A learned factor for each CCA layer, from 0: the number itself, or its tanh "
            "(Flamingo, arXiv:2204.14198). The output projection then starts like any other, else "
            "at 0: with both at 0 neither would get a gradient."
        ),
    )
    previous_token_keys: int = pydantic.Field(
        default=0,
        ge=0,
        le=3,
        description=(
            "Departure from the papers. With n > 0 the key at neighbour position j also carries "
            "the encoder states at j - 1 ... j - n, each by a projection of its own, while the "
            "value stays that of j: one layer can then do what takes two otherwise (an induction "
            "head: find where the current token stood, copy what came next)."
        ),
    )
    similarity_init: bool = pydantic.Field(
        default=False,
        description=(
            "Departure from the papers. The query projection and the key projection (of j - 1 "
            "where previous_token_keys > 0, else of j) start as the same matrix with orthonormal "
            "rows, so that attention starts as similarity of decoder state and neighbour state "
            "instead of near uniform."
        ),
    )

    cca_heads: int | None = pydantic.Field(
        default=None,
        ge=1,
        description="Heads of cross-attention; None: as many as the decoder has.",
    )
    null_key: bool = pydantic.Field(
        default=False,
        description=(
            "Departure from the papers. A learned logit per head stands beside the neighbours' in "
            "the softmax and adds nothing: without it a softmax over neighbours must read "
            "something, also where nothing fits."
        ),
    )

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> "RetroOptions":
        # ValueError, as pydantic expects; `Config.parse` turns it into a ConfigError.
        if self.query_conditioning and not self.encoder_layers:
            raise ValueError(
                "query_conditioning happens in encoder layer 1, and encoder_layers is 0; set it to "
                "false"
            )
        if self.encoder == "decoder":
            if self.query_conditioning or self.encoder_width or not self.encoder_layers:
                raise ValueError(
                    "encoder: decoder copies layers of the decoder: it needs encoder_layers >= 1, "
                    "query_conditioning: "
                    f"false and no encoder_width; got encoder_layers={self.encoder_layers}, "
                    f"query_conditioning={self.query_conditioning}, "
                    f"encoder_width={self.encoder_width}"
                )
            shaped = []
            for name in ENCODER_SHAPE:
                if getattr(self, name) != type(self).model_fields[name].default:
                    shaped.append(name)
            if shaped:
                raise ValueError(
                    f"encoder: decoder is built like the decoder, so it takes no "
                    f"{', '.join(shaped)}"
                )
        if not isinstance(self.cca_layers, str):
            numbers = list(self.cca_layers)
            if numbers != sorted(set(numbers)):
                raise ValueError(f"cca_layers must be rising layer numbers from 1, got {numbers}")
        if self.previous_token_keys >= self.chunk_tokens:
            raise ValueError(
                f"previous_token_keys must be below chunk_tokens = {self.chunk_tokens}"
            )
        return self

    @property
    def neighbour_tokens(self) -> int:
        """r: tokens of a retrieved neighbour with its continuation."""
        return 2 * self.chunk_tokens


MEGATRON = RetroOptions(
    encoder_feed_forward="swiglu",
    encoder_positions="none",
    encoder_dropout=0.1,
    encoder_outer_norms=False,
    norm="layer",
    norm_epsilon=1e-5,
    relative_positions="none",
    chunk_alignment="right",
    missing_tokens="read",
)
"""InstructRetro as Megatron-LM computes it (with RoPE, SwiGLU and no linear biases, as in the
published commands).
"""


def tokens_read(continuation: str, chunk_tokens: int) -> slice:
    """Which tokens of [neighbour, continuation] a model reads, by `RetroOptions.continuation`."""
    start = chunk_tokens if continuation == "continuation" else 0
    stop = chunk_tokens if continuation == "neighbour" else 2 * chunk_tokens
    return slice(start, stop)


def encoder_feed_forward_width(options: RetroOptions, width: int) -> int:
    """F: the option, else 4 widths; gated 8/3 widths (as many weights), rounded down to a multiple
    of 64 unless that is 0.
    """
    if options.encoder_feed_forward_width is not None:
        return options.encoder_feed_forward_width
    if options.encoder_feed_forward == "gelu":
        return 4 * width
    inner = 8 * width // 3
    return inner // 64 * 64 or inner


def widest_heads(width: int) -> int:
    """Heads of 64, or the widest that divide the width evenly: over r = 128 tokens narrow ones are
    mostly softmax.

    Raises:
        ConfigError: the width is odd.
    """
    for head_width in (64, 32, 16, 8, 4, 2):
        if width % head_width == 0:
            return width // head_width
    raise ConfigError(f"encoder_width: expected an even number, got {width}")


def encoder_heads(options: RetroOptions, width: int) -> int:
    """How many heads an encoder of this width has.

    Raises:
        ConfigError: they do not divide the width.
    """
    heads = options.encoder_heads or widest_heads(width)
    fits = width % heads == 0
    if options.encoder_positions == "rotary":  # which turns pairs of columns
        fits = width % (2 * heads) == 0
    if not fits:
        raise ConfigError(
            f"encoder_heads: expected a divisor of {width} that leaves an even width, got {heads}"
        )
    return heads


def require_cca_heads(heads: int, width: int) -> None:
    """Refuse heads of cross-attention that do not divide the decoder's width: ConfigError."""
    if width % heads:
        raise ConfigError(
            f"cca_heads: expected a divisor of the decoder's width {width}, got {heads}"
        )


def cca_layer_numbers(rule: str | tuple[int, ...] | list[int], layers: int) -> tuple[int, ...]:
    """Layer numbers from 1 that carry CCA in a decoder of `layers` layers.

    `retro` is RETRO's rule: every third layer from 6, in decoders of more than 15 layers from 9.
    Decoders of fewer than 6 layers, which RETRO has none of, start at the middle.

    Raises:
        ConfigError: a number outside 1..layers, or none at all.
    """
    middle = (layers + 1) // 2
    first = 6 if layers <= 15 else 9
    if layers < 6:
        first = middle
    rules = {
        "retro": range(first, layers + 1, 3),
        "middle": (middle,),
        "last": (layers,),
        "all": range(1, layers + 1),
    }
    if isinstance(rule, str):
        return tuple(rules[rule])
    wrong = [number for number in rule if not 1 <= number <= layers]
    if wrong or not rule:
        raise ConfigError(
            f"cca_layers: expected layer numbers from 1 to {layers}, got {list(rule)}",
            hint="count layers from 1, or name a rule: retro, middle, last, all",
        )
    return tuple(rule)
