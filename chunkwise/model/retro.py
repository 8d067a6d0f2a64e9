"""RetroForCausalLM: a Hugging Face decoder that reads retrieved neighbours.

    model = RetroForCausalLM.from_decoder(decoder, RetroOptions(cca_layers="middle"))
    loss = model(input_ids, neighbour_ids=ids_BCkr, neighbour_mask=mask_BCkr, labels=input_ids).loss
    model.generate(prompt, retriever=retriever, max_new_tokens=200)

Without neighbours, or with the gate at 0, it is its decoder, to the bit; so is a fresh retrofit
with them, because the output projections of cross-attention start at zero. Neighbours of chunk u
first touch the logit at the last token of chunk u (`grid`). A text's chunks are counted from its
first token, so left padding changes nothing; `chunk_start` places them elsewhere.

Dimensions: B batch, T tokens, C chunks, k neighbours, r tokens of a neighbour (neighbour and
    continuation, 2m).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    GenerationMixin,
    PreTrainedModel,
)

from chunkwise.core.errors import ArtefactError, AttachError, ConfigError, ShapeError
from chunkwise.core.retriever import Retriever
from chunkwise.model.attach import KEYWORD, attach, check_structure, detach
from chunkwise.model.cache import RetroState, board, state_of
from chunkwise.model.chunked_attention import ChunkedCrossAttention
from chunkwise.model.config import RetroOptions
from chunkwise.model.context import RetrievalContext
from chunkwise.model.decoder_encoder import DecoderEncoder
from chunkwise.model.encoder import NeighbourEncoder
from chunkwise.model.grid import Grid, complete_windows
from chunkwise.model.lookup import Lookup
from chunkwise.model.probe import probe
from chunkwise.model.retro_config import RetroConfig


class RetroForCausalLM(PreTrainedModel, GenerationMixin):
    """A decoder, a neighbour encoder, and CCA modules inside the decoder's layers
    (`...layers.i.retro_cca`).
    """

    config: RetroConfig
    config_class = RetroConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: RetroConfig, decoder: PreTrainedModel | None = None) -> None:
        """Use `from_decoder` or `from_pretrained`; `decoder` is taken over, not copied."""
        super().__init__(config)
        self.decoder: Any = (
            AutoModelForCausalLM.from_config(config.decoder) if decoder is None else decoder
        )
        config.decoder = (
            self.decoder.config
        )  # one object: see RetroConfig on why the copy may not live on
        self._no_split_modules = list(self.decoder._no_split_modules or [])
        options, sizes = config.options, self.decoder.config.get_text_config()
        width, heads = sizes.hidden_size, sizes.num_attention_heads
        copied = options.encoder == "decoder"
        if copied:
            self.encoder: Any = DecoderEncoder(self.decoder, options)
        else:
            self.encoder = NeighbourEncoder(options, self.get_input_embeddings(), width)
        sizes = (width, options.cca_heads or heads, self.encoder.columns, width if copied else 0)
        attach(
            self.decoder,
            {number: ChunkedCrossAttention(options, *sizes) for number in config.cca_layers},
        )
        # Ourselves, before post_init: it would hand CCA modules to the decoder's own rules, which
        # know no zero start.
        for module in self.retrieval_modules():
            module.initialise()
            module.apply(_mark_initialised)
        self.post_init()

    @classmethod
    def from_decoder(
        cls, decoder: PreTrainedModel, options: RetroOptions | None = None, *, seed: int = 0
    ) -> "RetroForCausalLM":
        """Retrofit a decoder: it becomes part of the result (same weights, type and device).

        Args:
            decoder: any AutoModelForCausalLM that passes the probe of `attach`.
            seed: of the new weights, which depend on nothing else.

        Raises:
            AttachError: retrieval would not do what it should in this decoder; the message says
                why. The decoder is as it was.
        """
        if isinstance(decoder, RetroForCausalLM):
            raise AttachError(
                "expected a plain decoder, got a Retro model", hint="load the decoder afresh"
            )
        check_structure(decoder)
        config = RetroConfig(decoder=decoder.config, **(options or RetroOptions()).model_dump())
        config.dtype = decoder.dtype
        decoder.apply(_mark_initialised)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cls(config, decoder)
        for part in model.retrieval_modules():
            part.to(device=decoder.device, dtype=decoder.dtype)
        model.generation_config = decoder.generation_config
        try:
            probe(decoder)
        except AttachError:
            detach(decoder)
            raise
        return model.train(decoder.training)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but strict, and probed: what a decoder does with a keyword depends on
        its version.

        Raises:
            ArtefactError: weights are missing (transformers would leave them as they happen to be).
        """
        wants_report = kwargs.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, report = loaded
        if report["missing_keys"]:
            raise ArtefactError(
                f"the checkpoint lacks weights that its config.json asks for: "
                f"{sorted(report['missing_keys'])}"
            )
        probe(model.decoder)
        return (model, report) if wants_report else model

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        neighbour_ids: Tensor | None = None,
        neighbour_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Cache | None = None,
        gate: float | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        inputs_embeds: Tensor | None = None,
        chunk_start: Tensor | int | None = None,
        retrieval_stride: int | None = None,
        padding_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The decoder's forward, with retrieval.

        Args:
            input_ids: [B, T]; with `past_key_values` only the new tokens.
            attention_mask, position_ids: as in transformers, [B, past + T] and [B, T]; a
                left-padded batch needs both, as there (`generate` makes the positions, for models
                whose forward names them).
            neighbour_ids: [B, C, k, r] token ids of the neighbours of all chunks of each text, from
                its start, also when part of it is in the cache. C is at least the number of
                complete chunks; more are ignored. None at first: plain decoder. None on a cache
                with retrieval: goes on, and a chunk that completes meanwhile has no neighbours.
            neighbour_mask: [B, C, k, r] bool, False = not there; None = all there.
            labels: as in transformers. With labels, no cache is made unless asked for.
            gate: factor on cross-attention in this call; None takes config.gate. 0 runs the plain
                decoder.
            chunk_start: place in the row at which each text's chunk 0 begins, one number or [B];
                None: its first token, after left padding. Put it into the padding to have a prompt
                end with a chunk. On a cache it stays what it was.
            retrieval_stride: tokens from one lookup to the next, at most chunk_tokens, which None
                stands for. Below it, "chunk u" of neighbour_ids is the window of chunk_tokens
                tokens from u strides on.
            padding_mask: [B, past + T], only where attention_mask is not of that form (static
                caches).

        Returns:
            The decoder's output object.

        Raises:
            ShapeError: neighbours do not fit the text. MismatchError: the cache was advanced
                without retrieval.
            ConfigError: chunk_alignment right with a cache, padding, chunk_start or stride.
        """
        gate = self.config.gate if gate is None else gate
        if use_cache is None:
            use_cache = labels is None and not self.training and self.decoder.config.use_cache
        context, state = None, state_of(past_key_values)
        if gate != 0 and (neighbour_ids is not None or state is not None):
            given_tokens = input_ids if input_ids is not None else inputs_embeds
            if given_tokens is None:
                raise ShapeError("expected input_ids or inputs_embeds, got neither")
            batch, length = given_tokens.shape[:2]
            past = 0 if past_key_values is None else int(past_key_values.get_seq_length())
            if self.config.chunk_alignment == "right":
                use_cache = self._right_aligned(
                    use_cache, past, attention_mask, chunk_start, retrieval_stride
                )
                chunk_start = (
                    length - -(-length // self.config.chunk_tokens) * self.config.chunk_tokens
                )
            if use_cache and past_key_values is None:
                past_key_values = DynamicCache(config=self.config.decoder)
            if state is None:
                if (
                    padding_mask is None
                    and attention_mask is not None
                    and attention_mask.dim() == 2
                ):
                    padding_mask = attention_mask
                state = self._new_state(batch, padding_mask, chunk_start, retrieval_stride)
                if past_key_values is not None:
                    board(past_key_values, state)
            context = RetrievalContext(
                self.config,
                self.encoder,
                self.decoder.get_input_embeddings(),
                neighbour_ids,
                neighbour_mask,
                grid=Grid.of(past, length, self.config.chunk_tokens, state.stride, state.starts),
                first_tokens=state.first_tokens,
                state=None if past_key_values is None else state,
                gate=gate,
                batch=batch,
            )
            kwargs[KEYWORD] = context
        given = {"labels": labels, "inputs_embeds": inputs_embeds, "position_ids": position_ids}
        kwargs.update({name: value for name, value in given.items() if value is not None})
        output = self.decoder(
            input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        if context is not None:
            context.finish()
        return output

    def _new_state(
        self,
        batch: int,
        padding_mask: Tensor | None,
        chunk_start: Tensor | int | None,
        stride: int | None,
    ) -> RetroState:
        """Where texts and their chunks begin."""
        first_tokens = first_token_places(padding_mask, batch)
        starts = first_tokens if chunk_start is None else chunk_starts(chunk_start, batch)
        return RetroState(self.config.chunk_tokens, self._stride(stride), starts, first_tokens)

    def _stride(self, stride: int | None) -> int:
        m = self.config.chunk_tokens
        if stride is not None and not 1 <= stride <= m:
            raise ConfigError(f"retrieval_stride: expected 1 to chunk_tokens = {m}, got {stride}")
        return m if stride is None else stride

    @staticmethod
    def _right_aligned(
        use_cache: bool,
        past: int,
        mask: Tensor | None,
        chunk_start: Tensor | int | None,
        stride: int | None,
    ) -> bool:
        """Refuse what right alignment cannot mean; returns use_cache, False unless it was asked
        for.
        """
        padded = mask is not None and (mask.dim() != 2 or not bool(mask.bool().all()))
        if past or padded or chunk_start is not None or stride is not None:
            raise ConfigError(
                "chunk_alignment: right counts chunks from the end of a whole text, so it goes "
                "with no cached tokens, "
                "padding, chunk_start or retrieval_stride",
                hint="score texts of one length at a time, or set chunk_alignment to left",
            )
        return False

    # ---- generation ----

    def generate(
        self,
        *args: Any,
        retriever: Retriever | None = None,
        neighbours: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """transformers' generate, with neighbours.

        Args:
            retriever: asked for each chunk's neighbours when it completes, with the chunk's token
                ids as they stand (a partly padded chunk with its padding; a chunk that is all
                padding is not looked up).
            neighbours: k; None takes config.neighbours.
            neighbour_ids, neighbour_mask: instead, neighbours of the chunks so far; later ones then
                have none.
            retrieval_stride: look up every so many tokens, with the last chunk_tokens tokens; None:
                when a chunk is complete.
            chunk_start: as in `forward`. Texts of a left-padded batch complete their chunks each at
                its own time.

        Raises:
            ConfigError: settings that do not go together, or chunk_alignment right.
        """
        if retriever is not None and kwargs.get("neighbour_ids") is not None:
            raise ConfigError("generate() got a retriever and neighbour_ids; pass one of them")
        gate = kwargs["gate"] if kwargs.get("gate") is not None else self.config.gate
        if gate != 0 and (retriever is not None or kwargs.get("neighbour_ids") is not None):
            if self.config.chunk_alignment == "right":
                raise ConfigError(
                    "generate() got neighbours and this model's chunk_alignment is right: chunks "
                    "that end with the "
                    "text would move with every new token",
                    hint=(
                        "set model.config.chunk_alignment = 'left'; for one text of whole chunks "
                        "the two are the same"
                    ),
                )
            stride, start = self._stride(kwargs.get("retrieval_stride")), kwargs.get("chunk_start")
            if start is not None and bool((torch.as_tensor(start) < 0).any()):
                raise ConfigError(
                    f"generate() got chunk_start {start}: expected places in the row, from 0 on"
                )
            if retriever is not None:
                k = self.config.neighbours if neighbours is None else neighbours
                options = self.config.options
                kwargs["retriever"] = Lookup(
                    retriever, k, options.neighbour_tokens, options.chunk_tokens, stride
                )
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *args: Any,
        retriever: Lookup | None = None,
        neighbour_ids: Tensor | None = None,
        neighbour_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers; also looks up the neighbours of chunks that the next forward
        completes.
        """
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,  # type: ignore[arg-type]
            *args,
            attention_mask=attention_mask,  # type: ignore[arg-type]
            **kwargs,
        )
        past = inputs.get("past_key_values")
        state = state_of(past)
        if state is None and attention_mask is not None and attention_mask.dim() == 2:
            inputs["padding_mask"] = attention_mask
        if retriever is None and neighbour_ids is None:
            return inputs
        if state is None:
            batch = len(input_ids)
            state = self._new_state(
                batch,
                inputs.get("padding_mask"),
                kwargs.get("chunk_start"),
                kwargs.get("retrieval_stride"),
            )
        if retriever is not None:
            found = retriever(input_ids, state, 0 if past is None else int(past.get_seq_length()))
            if found is None:
                return inputs  # no chunk completes: nothing to hand over
            neighbour_ids, neighbour_mask = found
        else:
            assert neighbour_ids is not None  # one of the two ways was asked for
            sizes = (state.chunk_tokens, state.stride)
            complete = max(
                complete_windows(input_ids.shape[1], start, *sizes) for start in set(state.starts)
            )
            missing = complete - neighbour_ids.shape[1]
            if missing > 0:
                mask = (
                    torch.ones_like(neighbour_ids, dtype=torch.bool)
                    if neighbour_mask is None
                    else neighbour_mask
                )
                pad = (0, 0, 0, 0, 0, missing)
                neighbour_ids, neighbour_mask = F.pad(neighbour_ids, pad), F.pad(mask, pad)
        inputs["neighbour_ids"], inputs["neighbour_mask"] = neighbour_ids, neighbour_mask
        return inputs

    # ---- parts ----

    def retrieval_modules(self) -> list[NeighbourEncoder | ChunkedCrossAttention]:
        """The neighbour encoder and the CCA modules."""
        return [
            self.encoder,
            *(
                module
                for module in self.decoder.modules()
                if isinstance(module, ChunkedCrossAttention)
            ),
        ]

    def retrieval_parameter_names(self) -> list[str]:
        """Names, as in `named_parameters`, of the weights that retrieval adds; all others are the
        backbone's.
        """
        owned = {
            id(parameter)
            for module in self.retrieval_modules()
            for parameter in module.parameters()
        }
        return [name for name, parameter in self.named_parameters() if id(parameter) in owned]

    def freeze_backbone(self, frozen: bool = True) -> None:
        """Train only what retrieval adds, as RETRO did (InstructRetro trained everything)."""
        owned = set(self.retrieval_parameter_names())
        for name, parameter in self.named_parameters():
            if name not in owned:
                parameter.requires_grad_(not frozen)

    def get_input_embeddings(self) -> Any:
        return self.decoder.get_input_embeddings()

    def set_input_embeddings(self, value: torch.nn.Module) -> None:
        self.decoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.decoder.get_output_embeddings()

    def set_output_embeddings(self, value: torch.nn.Module) -> None:
        self.decoder.set_output_embeddings(value)

    def get_decoder(self) -> torch.nn.Module:
        return self.decoder.get_decoder()

    def _set_gradient_checkpointing(  # type: ignore[override]
        self, enable: bool = True, gradient_checkpointing_func: Any = None, **kwargs: Any
    ) -> None:
        """Where transformers' switches end up; re-entrant checkpoints fail where layers share the
        encoder's graph.
        """
        if enable and getattr(gradient_checkpointing_func, "keywords", {}).get("use_reentrant"):
            raise ConfigError(
                "gradient checkpointing of a Retro model needs use_reentrant=False, got True"
            )
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)


def first_token_places(padding_mask: Tensor | None, batch: int) -> tuple[int, ...]:
    """Where each text begins behind its left padding."""
    if padding_mask is None or bool(padding_mask[:, 0].all()):
        return (0,) * batch
    return tuple(padding_mask.bool().int().argmax(1).tolist())


def chunk_starts(chunk_start: Tensor | int, batch: int) -> tuple[int, ...]:
    """`chunk_start` as one number for each text."""
    if isinstance(chunk_start, int):
        return (chunk_start,) * batch
    if chunk_start.shape != (batch,):
        raise ShapeError(
            f"chunk_start: expected one number or {batch}, got shape {list(chunk_start.shape)}"
        )
    return tuple(chunk_start.tolist())


def _mark_initialised(module: torch.nn.Module) -> None:
    """transformers initialises what is not marked; a trained decoder and our own parts have their
    weights.

    Not marked: modules with buffers that checkpoints leave out (rotary tables), which loading has
    to make anew.
    """
    if not module._non_persistent_buffers_set:
        module.__dict__["_is_hf_initialized"] = True


AutoConfig.register("retro", RetroConfig, exist_ok=True)
AutoModelForCausalLM.register(RetroConfig, RetroForCausalLM, exist_ok=True)
