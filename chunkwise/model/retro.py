"""RetroForCausalLM: a Hugging Face decoder that reads retrieved neighbours.

    model = RetroForCausalLM.from_decoder(decoder, RetroOptions(cca_layers="middle"))
    loss = model(input_ids, neighbour_ids=ids_BCkr, neighbour_mask=mask_BCkr, labels=input_ids).loss
    model.generate(prompt, retriever=retriever, max_new_tokens=200)

Without neighbours, or with the gate at 0, it is its decoder, to the bit; so is a fresh retrofit with them, because
the output projections of cross-attention start at zero. Neighbours of chunk u first touch the logit at the last token
of chunk u (`chunked_attention`); chunks are counted on the grid of the tensor, padding included: left-pad a prompt so
that it ends on a chunk's end, and its last chunk's neighbours serve the answer.

Dimensions: B batch, T tokens, C chunks, k neighbours, r tokens of a neighbour (neighbour and continuation, 2m).
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, Cache, DynamicCache, GenerationMixin, PreTrainedModel

from chunkwise.core.errors import ArtefactError, AttachError, ConfigError, ShapeError
from chunkwise.core.retriever import Retriever
from chunkwise.model.attach import KEYWORD, attach, check_structure, detach
from chunkwise.model.cache import board, state_of
from chunkwise.model.chunked_attention import ChunkedCrossAttention
from chunkwise.model.config import RetroOptions
from chunkwise.model.context import RetrievalContext
from chunkwise.model.decoder_encoder import DecoderEncoder
from chunkwise.model.encoder import NeighbourEncoder
from chunkwise.model.probe import probe
from chunkwise.model.retro_config import RetroConfig


class RetroForCausalLM(PreTrainedModel, GenerationMixin):
    """A decoder, a neighbour encoder, and CCA modules inside the decoder's layers (`...layers.i.retro_cca`)."""

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
        self.decoder: Any = AutoModelForCausalLM.from_config(config.decoder) if decoder is None else decoder
        config.decoder = self.decoder.config  # one object: see RetroConfig on why the copy may not live on
        self._no_split_modules = list(self.decoder._no_split_modules or [])
        options, sizes = config.options, self.decoder.config.get_text_config()
        width, heads = sizes.hidden_size, sizes.num_attention_heads
        distances = options.chunk_tokens + options.neighbour_tokens - 1
        self.encoder: Any = self._new_encoder(options, width, heads)
        cca_heads = options.cca_heads or heads
        if width % cca_heads:
            raise ConfigError(f"cca_heads: expected a divisor of the decoder's width {width}, came {cca_heads}")
        attach(
            self.decoder,
            {
                number: ChunkedCrossAttention(
                    width,
                    self.encoder_columns,
                    cca_heads,
                    chunk_tokens=options.chunk_tokens,
                    distances=distances if options.relative_positions == "retro" else 0,
                    previous_tokens=options.previous_token_keys,
                    similarity_init=options.similarity_init,
                    null_key=options.null_key,
                    token_columns=width if options.encoder == "decoder" else 0,
                )
                for number in config.cca_layers
            },
        )
        # Ourselves, before post_init: it would hand CCA modules to the decoder's own rules, which know no zero start.
        for module in self.retrieval_modules():
            module.initialise()
            module.apply(_mark_initialised)
        self.post_init()

    def _new_encoder(self, options: RetroOptions, width: int, heads: int) -> torch.nn.Module:
        if options.encoder == "decoder":
            layers = self.decoder.config.get_text_config().num_hidden_layers
            if options.encoder_layers > layers:
                raise ConfigError(
                    f"encoder: decoder with encoder_layers={options.encoder_layers}, and the decoder has {layers}"
                )
            self.encoder_columns = 2 * width
            return DecoderEncoder(self.decoder, options.encoder_layers)
        self.encoder_columns = options.encoder_width or width
        return NeighbourEncoder(
            embedding_width=self.get_input_embeddings().weight.shape[1],
            width=self.encoder_columns,
            layers=options.encoder_layers,
            heads=_encoder_heads(self.encoder_columns, heads, width),
            conditioning_width=width if options.query_conditioning else None,
        )

    @classmethod
    def from_decoder(
        cls, decoder: PreTrainedModel, options: RetroOptions | None = None, *, seed: int = 0
    ) -> "RetroForCausalLM":
        """Retrofit a decoder: it becomes part of the result (same weights, type and device).

        Args:
            decoder: any AutoModelForCausalLM that passes the probe of `attach`.
            seed: of the new weights, which depend on nothing else.

        Raises:
            AttachError: retrieval would not do what it should in this decoder; the message says why. The decoder is
                as it was.
        """
        if isinstance(decoder, RetroForCausalLM):
            raise AttachError("expected a plain decoder, came a Retro model", hint="load the decoder afresh")
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
        """As in transformers, but strict, and probed: what a decoder does with a keyword depends on its version.

        Raises:
            ArtefactError: weights are missing (transformers would leave them as they happen to be).
        """
        wants_report = kwargs.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, report = loaded
        if report["missing_keys"]:
            raise ArtefactError(
                f"the checkpoint lacks weights that its config.json asks for: {sorted(report['missing_keys'])}"
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
        padding_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The decoder's forward, with retrieval.

        Args:
            input_ids: [B, T]; with `past_key_values` only the new tokens.
            attention_mask, position_ids: as in transformers, [B, past + T] and [B, T]; a left-padded batch needs
                both, as there (`generate` makes the positions, for models whose forward names them).
            neighbour_ids: [B, C, k, r] token ids of the neighbours of all chunks of the text, from its start, also
                when part of it is in the cache. C is at least the number of complete chunks; more are ignored. None
                at first: plain decoder. None on a cache with retrieval: goes on, and a chunk that completes meanwhile
                has no neighbours.
            neighbour_mask: [B, C, k, r] bool, False = not there; None = all there.
            labels: as in transformers. With labels, no cache is made unless asked for.
            gate: factor on cross-attention in this call; None takes config.gate. 0 runs the plain decoder.
            padding_mask: [B, past + T], only where attention_mask is not of that form (static caches).

        Returns:
            The decoder's output object.

        Raises:
            ShapeError: neighbours do not fit the text. MismatchError: the cache was advanced without retrieval.
        """
        gate = self.config.gate if gate is None else gate
        if use_cache is None:
            use_cache = labels is None and not self.training and self.decoder.config.use_cache
        context = None
        if gate != 0 and (neighbour_ids is not None or state_of(past_key_values) is not None):
            given_tokens = input_ids if input_ids is not None else inputs_embeds
            if given_tokens is None:
                raise ShapeError("expected input_ids or inputs_embeds, came neither")
            batch, length = given_tokens.shape[:2]
            if use_cache and past_key_values is None:
                past_key_values = DynamicCache(config=self.config.decoder)
            if padding_mask is None and attention_mask is not None and attention_mask.dim() == 2:
                padding_mask = attention_mask
            context = RetrievalContext(
                self.config,
                self.encoder,
                self.decoder.get_input_embeddings(),
                neighbour_ids,
                neighbour_mask,
                batch=batch,
                past=0 if past_key_values is None else int(past_key_values.get_seq_length()),
                tokens=length,
                padding_mask=padding_mask,
                state=None if past_key_values is None else board(past_key_values, self.config.chunk_tokens),
                gate=gate,
            )
            kwargs[KEYWORD] = context
        given = {"labels": labels, "inputs_embeds": inputs_embeds, "position_ids": position_ids}
        kwargs.update({name: value for name, value in given.items() if value is not None})
        output = self.decoder(
            input_ids, attention_mask=attention_mask, past_key_values=past_key_values, use_cache=use_cache, **kwargs
        )
        if context is not None:
            context.finish()
        return output

    # ---- generation ----

    def generate(
        self, *args: Any, retriever: Retriever | None = None, neighbours: int | None = None, **kwargs: Any
    ) -> Any:
        """transformers' generate, with neighbours.

        Args:
            retriever: asked for each chunk's neighbours when it completes, with the chunk's token ids as they stand
                (a partly padded chunk with its padding; a chunk that is all padding is not looked up).
            neighbours: k; None takes config.neighbours.
            neighbour_ids, neighbour_mask: instead, neighbours of the chunks so far; later ones then have none.
        """
        if retriever is not None and kwargs.get("neighbour_ids") is not None:
            raise ConfigError("generate() got a retriever and neighbour_ids; pass one of them")
        gate = kwargs["gate"] if kwargs.get("gate") is not None else self.config.gate
        if retriever is not None and gate != 0:
            k = self.config.neighbours if neighbours is None else neighbours
            kwargs["retriever"] = Lookup(retriever, k, self.config.options.neighbour_tokens)
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *args: Any,
        retriever: "Lookup | None" = None,
        neighbour_ids: Tensor | None = None,
        neighbour_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers; also looks up the neighbours of chunks that the next forward completes."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,  # type: ignore[arg-type]
            *args,
            attention_mask=attention_mask,  # type: ignore[arg-type]
            **kwargs,
        )
        if attention_mask is not None and attention_mask.dim() == 2:
            inputs["padding_mask"] = attention_mask
        m, past = self.config.chunk_tokens, inputs.get("past_key_values")
        complete = input_ids.shape[1] // m
        if retriever is not None:
            grid = (complete, m)
            tokens_BCm = (
                inputs["padding_mask"][:, : complete * m].unflatten(1, grid) if "padding_mask" in inputs else None
            )
            first_new = (0 if past is None else int(past.get_seq_length())) // m
            chunks_BCm = input_ids[:, : complete * m].unflatten(1, grid)
            neighbour_ids, neighbour_mask = retriever(chunks_BCm, tokens_BCm, first_new)
        elif neighbour_ids is not None and neighbour_ids.shape[1] < complete:
            mask = torch.ones_like(neighbour_ids, dtype=torch.bool) if neighbour_mask is None else neighbour_mask
            missing = (0, 0, 0, 0, 0, complete - neighbour_ids.shape[1])
            neighbour_ids, neighbour_mask = F.pad(neighbour_ids, missing), F.pad(mask, missing)
        if neighbour_ids is not None:
            inputs["neighbour_ids"], inputs["neighbour_mask"] = neighbour_ids, neighbour_mask
        return inputs

    # ---- parts ----

    def retrieval_modules(self) -> list[NeighbourEncoder | ChunkedCrossAttention]:
        """The neighbour encoder and the CCA modules."""
        return [
            self.encoder,
            *(module for module in self.decoder.modules() if isinstance(module, ChunkedCrossAttention)),
        ]

    def retrieval_parameter_names(self) -> list[str]:
        """Names, as in `named_parameters`, of the weights that retrieval adds; all others are the backbone's."""
        owned = {id(parameter) for module in self.retrieval_modules() for parameter in module.parameters()}
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
        """Where transformers' switches end up; re-entrant checkpoints fail where layers share the encoder's graph."""
        if enable and getattr(gradient_checkpointing_func, "keywords", {}).get("use_reentrant"):
            raise ConfigError("gradient checkpointing of a Retro model needs use_reentrant=False, came True")
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)


class Lookup:
    """A retriever during one `generate`: tensors in and out, chunks that complete, each looked up once.

    Args:
        k: neighbours per chunk.
        neighbour_tokens: r, for the shape of what is not found.
    """

    def __init__(self, retriever: Retriever, k: int, neighbour_tokens: int) -> None:
        self.retriever, self.k, self.neighbour_tokens = retriever, k, neighbour_tokens
        self.known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, chunks_BCm: Tensor, tokens_BCm: Tensor | None, first_chunk: int) -> tuple[Tensor, Tensor]:
        """Neighbours [B, C, k, r] and their mask; chunks before `first_chunk` are in the cache and stay empty."""
        B, C, _ = chunks_BCm.shape
        ids = np.zeros((B, C, self.k, self.neighbour_tokens), dtype=np.int64)
        mask = np.zeros(ids.shape, dtype=bool)
        if self.k and first_chunk < C:
            chunks = chunks_BCm.cpu().numpy()
            real = None if tokens_BCm is None else tokens_BCm.bool().any(-1).cpu().numpy()
            places = [(b, c) for b in range(B) for c in range(first_chunk, C) if real is None or real[b, c]]
            self._look_up({chunks[place].tobytes(): chunks[place] for place in places})
            for place in places:
                ids[place], mask[place] = self.known[chunks[place].tobytes()]
        return torch.from_numpy(ids).to(chunks_BCm.device), torch.from_numpy(mask).to(chunks_BCm.device)

    def _look_up(self, wanted: dict[bytes, np.ndarray]) -> None:
        new = [key for key in wanted if key not in self.known]
        if new:
            ids, mask = self.retriever.neighbours(np.stack([wanted[key] for key in new]), self.k)
            expected = (len(new), self.k, self.neighbour_tokens)
            if ids.shape != expected or mask.shape != expected:
                raise ShapeError(
                    f"the retriever gave tokens {ids.shape} and mask {mask.shape}, expected both as {expected}"
                )
            self.known.update(zip(new, zip(ids, mask, strict=True), strict=True))


def _mark_initialised(module: torch.nn.Module) -> None:
    """transformers initialises what is not marked; a trained decoder and our own parts have their weights.

    Not marked: modules with buffers that checkpoints leave out (rotary tables), which loading has to make anew.
    """
    if not module._non_persistent_buffers_set:
        module.__dict__["_is_hf_initialized"] = True


def _encoder_heads(width: int, decoder_heads: int, decoder_width: int) -> int:
    """Heads as wide as the decoder's where they divide the encoder's width, else as many as make them even."""
    head_width = decoder_width // decoder_heads
    for candidate in (head_width, 64, 32, 16, 8, 4, 2):
        if candidate % 2 == 0 and width % candidate == 0:
            return width // candidate
    raise ConfigError(f"encoder_width: expected an even number, came {width}")


AutoConfig.register("retro", RetroConfig, exist_ok=True)
AutoModelForCausalLM.register(RetroConfig, RetroForCausalLM, exist_ok=True)
