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
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    GenerationMixin,
    PreTrainedModel,
)

from chunkwise.core.errors import ArtefactError, AttachError, ConfigError
from chunkwise.core.retriever import Retriever
from chunkwise.model.arguments import (
    batch_and_tokens,
    present,
    require_forward,
    require_gate,
    require_generation,
    require_known,
    vocabulary_of,
)
from chunkwise.model.attach import KEYWORD, attach, check_structure, detach
from chunkwise.model.cache import length_of, state_of
from chunkwise.model.chunked_attention import ChunkedCrossAttention
from chunkwise.model.config import RetroOptions
from chunkwise.model.decoder_encoder import DecoderEncoder
from chunkwise.model.encoder import NeighbourEncoder
from chunkwise.model.grid import Grid
from chunkwise.model.lookup import Lookup
from chunkwise.model.probe import probe
from chunkwise.model.read import RetrievalContext
from chunkwise.model.retro_config import RetroConfig
from chunkwise.model.select import select_neighbours
from chunkwise.model.starts import (
    Begins,
    new_state,
    padding_in,
    require_growing_chunks,
    state_for,
)


class RetroForCausalLM(PreTrainedModel, GenerationMixin):
    """A decoder, a neighbour encoder, and CCA modules inside the decoder's layers
    (`...layers.i.retro_cca`).

    How `forward` and `generate` count the texts of a batch and their chunks:

    neighbour_ids hold those of all chunks of each text, from its start, also when part of it is in
        the cache. C is at least the number of complete chunks; more are ignored. None at first:
        plain decoder. None on a cache with retrieval: goes on, and a chunk that completes meanwhile
        has no neighbours.
    chunk_start is the place in the row at which a text's chunk 0 begins; None: its first token,
        after left padding. Put it into the padding to have a prompt end with a chunk. On a cache it
        stays what it was.
    retrieval_stride is at most chunk_tokens, which None stands for. Below it, "chunk u" of
        neighbour_ids is the window of chunk_tokens tokens from u strides on.
    A left-padded batch needs both attention_mask and position_ids, as in transformers (`generate`
        makes the positions, for models whose forward names them).
    """

    config: RetroConfig
    config_class = RetroConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # The decoder decides; but unless the wrapper declares them too, transformers refuses
    # attn_implementation before the decoder sees it.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: RetroConfig, decoder: PreTrainedModel | None = None) -> None:
        """Use `from_decoder` or `from_pretrained`; `decoder` is taken over, not copied."""
        super().__init__(config)
        if decoder is None:
            decoder = AutoModelForCausalLM.from_config(config.decoder)
        self.decoder: Any = decoder
        # One object: see RetroConfig on why the copy may not live on.
        config.decoder = self.decoder.config
        # A device_map keeps these modules on one device.
        self._no_split_modules = list(self.decoder._no_split_modules or [])
        options = config.options
        sizes = self.decoder.config.get_text_config()
        width = sizes.hidden_size
        token_columns = 0
        if options.encoder == "decoder":
            self.encoder: Any = DecoderEncoder(self.decoder, options)
            token_columns = width
        else:
            self.encoder = NeighbourEncoder(options, self.get_input_embeddings(), width)
        heads = options.cca_heads or sizes.num_attention_heads
        modules: dict[int, torch.nn.Module] = {}
        for number in config.cca_layers:
            modules[number] = ChunkedCrossAttention(
                options, width, heads, self.encoder.columns, token_columns
            )
        attach(self.decoder, modules)
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
        if options is None:
            options = RetroOptions()
        if not isinstance(options, RetroOptions):
            raise ConfigError(
                f"options: expected RetroOptions, got {type(options).__name__}",
                hint="of a dictionary make them by RetroOptions(**options)",
            )
        config = RetroConfig(decoder=decoder.config, **options.model_dump())
        config.dtype = decoder.dtype
        decoder.apply(_mark_initialised)
        # The caller's random state stays as it is. New weights are drawn on the CPU in float32, so
        # they are the same on every device and for every type.
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
            ArtefactError: weights are missing (transformers would leave them as they happen to be),
                damaged, or of other shapes than config.json says.
        """
        wants_report = kwargs.pop("output_loading_info", False)
        try:
            loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        except (RuntimeError, SafetensorError) as error:
            folder = args[0] if args else kwargs.get("pretrained_model_name_or_path")
            # Of other shapes, or cut short.
            raise ArtefactError(f"cannot load the weights in {folder}: {error}") from error
        model, report = loaded
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            raise ArtefactError(
                f"the checkpoint lacks weights that its config.json asks for: {missing}"
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
        """The decoder's forward, with retrieval; returns the decoder's output object. The class
        says how texts and chunks are counted.

        Args:
            input_ids: [B, T]; with `past_key_values` only the new tokens.
            attention_mask, position_ids: as in transformers, [B, past + T] and [B, T].
            neighbour_ids: [B, C, k, r] token ids of the neighbours of all chunks so far.
            neighbour_mask: [B, C, k, r] bool, False = not there; None = all there.
            labels: as in transformers. With labels, no cache is made unless asked for.
            gate: factor on cross-attention; None takes config.gate. 0 runs the plain decoder.
            chunk_start: where each text's chunk 0 begins, one number or [B]; None: with the text.
            retrieval_stride: tokens from one lookup to the next.
            padding_mask: [B, past + T], where attention_mask has another form (static caches).

        Raises:
            ShapeError: neighbours do not fit the text, or are of another kind.
            MismatchError: a cache without retrieval or of another stride; unknown token ids.
            ConfigError: chunk_alignment right with a cache, padding, chunk_start or stride; a
                misspelt argument; a gate that is no number.
        """
        size = batch_and_tokens(input_ids, inputs_embeds)
        gate = self._gate(gate)
        require_forward(kwargs, past_key_values, neighbour_ids, neighbour_mask)
        if use_cache is None:
            use_cache = labels is None and not self.training and self.decoder.config.use_cache
        has_neighbours = neighbour_ids is not None or state_of(past_key_values) is not None
        context = None
        if gate != 0 and has_neighbours:
            use_cache = use_cache and self.config.chunk_alignment != "right"
            # Here and not in the decoder, since the retrieval state goes onto the cache.
            if use_cache and past_key_values is None:
                past_key_values = DynamicCache(config=self.config.decoder)
            begins = Begins(attention_mask, padding_mask, chunk_start, retrieval_stride)
            neighbours = (neighbour_ids, neighbour_mask)
            context = self._context(input_ids, size, past_key_values, begins, neighbours, gate)
            kwargs[KEYWORD] = context
        kwargs |= {"attention_mask": attention_mask, "past_key_values": past_key_values}
        kwargs |= present(labels=labels, inputs_embeds=inputs_embeds, position_ids=position_ids)
        output = self.decoder(input_ids, use_cache=use_cache, **kwargs)
        if context is not None:
            context.finish()
        return output

    def _context(
        self,
        input_ids: Tensor | None,
        size: tuple[int, int],
        past_key_values: Cache | None,
        begins: Begins,
        neighbours: tuple[Tensor | None, Tensor | None],
        gate: float,
    ) -> RetrievalContext:
        """What the decoder's layers are given to read.

        Args:
            size: texts of the batch, and tokens of this call.
            neighbours: ids and mask of `forward`.
        """
        batch, length = size
        ids, mask = neighbours
        past = length_of(past_key_values)
        # One token after others was drawn by the model itself.
        if input_ids is not None and length > 1:
            require_known(input_ids, self._vocabulary(), "input_ids")
        state = state_for(self.config, size, past_key_values, begins)
        grid = Grid.of(past, length, self.config.chunk_tokens, state.stride, state.starts)
        cached = past_key_values is not None
        selected = None
        if ids is not None:
            selected = select_neighbours(
                self.config,
                grid,
                ids,
                mask,
                batch=batch,
                cached=cached,
                vocabulary=self._vocabulary_of_encoder(),
            )
        return RetrievalContext(
            config=self.config,
            encoder=self.encoder,
            embed=self.decoder.get_input_embeddings(),
            neighbours=selected,
            grid=grid,
            first_tokens=state.first_tokens,
            state=state if cached else None,
            gate=gate,
        )

    def _gate(self, gate: float | None) -> float:
        if gate is None:
            gate = self.config.gate
        require_gate(gate)
        return gate

    def _vocabulary(self) -> int:
        """Tokens that the decoder knows: those of its embedding, which may have been resized."""
        default = self.decoder.config.get_text_config().vocab_size
        return vocabulary_of(self.get_input_embeddings(), default)

    def _vocabulary_of_encoder(self) -> int:
        """Tokens that the neighbour encoder knows: the decoder's, or those of its own table."""
        vocabulary = self._vocabulary()
        table = getattr(self.encoder, "embedding", None)
        return vocabulary if table is None else vocabulary_of(table, vocabulary)

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
            ShapeError: the prompt is empty, or no tensor of token ids.
            MismatchError: token ids that the model does not know.
        """
        by_ids = kwargs.get("neighbour_ids") is not None
        prompt = require_generation(args, kwargs, has_retriever=retriever is not None)
        if prompt is not None:
            require_known(prompt, self._vocabulary(), "the prompt")
        if self.training and self.is_gradient_checkpointing:
            # Checkpointed layers drop the cache, and each step would then see its one token alone.
            kwargs["use_cache"] = False
        gate = self._gate(kwargs.get("gate"))
        # With the gate at 0 the decoder generates by itself, so there is nothing to look up.
        if gate != 0 and (retriever is not None or by_ids):
            require_growing_chunks(self.config, kwargs)
            if retriever is not None:
                k = self.config.neighbours if neighbours is None else neighbours
                neighbour_tokens = self.config.options.neighbour_tokens
                kwargs["retriever"] = Lookup(retriever, k, neighbour_tokens)
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *args: Any,
        retriever: Lookup | None = None,
        neighbour_ids: Tensor | None = None,
        neighbour_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,  # so named, or generate() would refuse attention_mask
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
        padding_mask = padding_in(attention_mask)
        # On a cache with retrieval the state knows where the texts begin.
        if state is None and padding_mask is not None:
            inputs["padding_mask"] = padding_mask
        if retriever is None and neighbour_ids is None:
            return inputs
        if state is None:
            state = new_state(
                self.config,
                len(input_ids),
                padding_mask,
                kwargs.get("chunk_start"),
                kwargs.get("retrieval_stride"),
            )
        if retriever is not None:
            neighbours = retriever(input_ids, state, length_of(past))
            if neighbours is None:
                return inputs  # no chunk completes, so there is nothing to pass on
            neighbour_ids, neighbour_mask = neighbours
        elif neighbour_ids is not None:
            complete = max(state.complete(input_ids.shape[1]))
            neighbour_ids, neighbour_mask = _with_missing(neighbour_ids, neighbour_mask, complete)
        inputs["neighbour_ids"] = neighbour_ids
        inputs["neighbour_mask"] = neighbour_mask
        return inputs

    def retrieval_modules(self) -> list[NeighbourEncoder | ChunkedCrossAttention]:
        """The neighbour encoder and the CCA modules."""
        modules = [self.encoder]
        for part in self.decoder.modules():
            if isinstance(part, ChunkedCrossAttention):
                modules.append(part)
        return modules

    def retrieval_parameter_names(self) -> list[str]:
        """Names, as in `named_parameters`, of the weights that retrieval adds; all others are the
        backbone's.
        """
        owned: set[int] = set()
        for module in self.retrieval_modules():
            owned.update(id(parameter) for parameter in module.parameters())
        names = []
        for name, parameter in self.named_parameters():
            if id(parameter) in owned:
                names.append(name)
        return names

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
        keywords = getattr(gradient_checkpointing_func, "keywords", {})  # of a partial
        if enable and keywords.get("use_reentrant"):
            raise ConfigError(
                "gradient checkpointing of a Retro model needs use_reentrant=False, got True"
            )
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)


def _with_missing(
    ids_BCkr: Tensor, mask_BCkr: Tensor | None, chunks: int
) -> tuple[Tensor, Tensor | None]:
    """Neighbours with missing ones for the chunks that have none, up to C = `chunks`."""
    missing = chunks - ids_BCkr.shape[1]
    if missing <= 0:
        return ids_BCkr, mask_BCkr
    if mask_BCkr is None:
        mask_BCkr = torch.ones_like(ids_BCkr, dtype=torch.bool)
    pad = (0, 0, 0, 0, 0, missing)
    return F.pad(ids_BCkr, pad), F.pad(mask_BCkr, pad)


def _mark_initialised(module: torch.nn.Module) -> None:
    """transformers initialises what is not marked; a trained decoder and our own parts have their
    weights.

    Not marked: modules with buffers that checkpoints leave out (rotary tables), which loading has
    to compute again.
    """
    if not module._non_persistent_buffers_set:
        module.__dict__["_is_hf_initialized"] = True


AutoModelForCausalLM.register(RetroConfig, RetroForCausalLM, exist_ok=True)
