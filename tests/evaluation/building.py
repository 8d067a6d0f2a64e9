"""A small world made by the real stages: documents, tokenizer, datastore, neighbours, questions; and fresh models."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from chunkwise.core.artefact import Artefact
from chunkwise.core.io import read_parquet, write_jsonl
from chunkwise.core.store import Store
from chunkwise.corpus.config import CorpusConfig, SequencesConfig, SourceConfig, TokenizerConfig, TokensConfig
from chunkwise.corpus.stages import CORPUS, SEQUENCES, TOKENIZER, TOKENS
from chunkwise.datastore.config import DatastoreConfig
from chunkwise.datastore.stages import DATASTORE
from chunkwise.model.config import RetroOptions
from chunkwise.model.retro import RetroForCausalLM
from chunkwise.model.weights import save
from chunkwise.neighbours.config import NeighboursConfig, QuestionNeighboursConfig
from chunkwise.neighbours.stages import NEIGHBOURS, QUESTION_NEIGHBOURS

CHUNK_TOKENS = 16
WORDS = [
    *("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "islet"),
    *("jetty", "knoll", "larch", "maple", "north", "ocean", "pearl", "quartz"),
]


@dataclass(frozen=True)
class World:
    """Artefacts that fit each other."""

    store: Store
    tokens: Artefact
    sequences: Artefact
    datastore: Artefact
    neighbours: Artefact
    questions: Artefact
    question_neighbours: Artefact


def make_world(folder: Path) -> World:
    """60 documents of 17 words each that repeat each other's sentences; a question for each of 12 held documents."""
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(WORDS, 8)) for _ in range(40)]
    rows = []
    for number in range(60):
        body = ". ".join(sentences[index] for index in rng.integers(0, len(sentences), 9))
        text = f"Item k{number:02d} holds {WORDS[number % 17]} and {WORDS[number * 7 % 17]}. {body}."
        rows.append({"id": f"d{number:02d}", "title": f"d{number:02d}", "text": text, "kind": ("a", "b")[number % 2]})
    write_jsonl(folder / "documents.jsonl", rows)
    store = Store(folder / "store")
    source = SourceConfig(kind="jsonl", path=str(folder / "documents.jsonl"), source_field="kind")
    corpus = store.get_or_build(
        CORPUS,
        CorpusConfig(
            sources=(source,),
            valid_fraction=0.2,
            held_fraction=0.3,
            near_duplicate_jaccard=None,
            decontamination="none",
        ),
    )
    tokenizer = store.get_or_build(TOKENIZER, TokenizerConfig(vocabulary_size=320), {"corpus": corpus})
    tokens = store.get_or_build(TOKENS, TokensConfig(), {"corpus": corpus, "tokenizer": tokenizer})
    sequences = store.get_or_build(
        SEQUENCES, SequencesConfig(split="valid", sequence_tokens=64, layout="documents"), {"tokens": tokens}
    )
    datastore = store.get_or_build(
        DATASTORE, DatastoreConfig(chunk_tokens=CHUNK_TOKENS, min_chunk_tokens=4), {"tokens": tokens}
    )
    neighbours = store.get_or_build(
        NEIGHBOURS, NeighboursConfig(K=50, overlap_tokens=None), {"datastore": datastore, "sequences": sequences}
    )
    questions = make_questions_artefact(store, corpus)
    found = store.get_or_build(
        QUESTION_NEIGHBOURS,
        QuestionNeighboursConfig(K=50),
        {"datastore": datastore, "questions": questions, "tokens": tokens},
    )
    return World(store, tokens, sequences, datastore, neighbours, questions, found)


def make_questions_artefact(store: Store, corpus: Artefact) -> Artefact:
    """What does item k07 hold? with four options, from the held documents."""

    def build(folder: Path, scratch: Path) -> dict:
        table = read_parquet(corpus.file("documents.parquet")).to_pylist()
        rows = []
        for position, record in enumerate(row for row in table if row["split"] == "held"):
            number = int(record["document_id"][1:])
            right = f"{WORDS[number % 17]} and {WORDS[number * 7 % 17]}"
            choices = [f"{WORDS[(number + 3 * i) % 17]} and {WORDS[(number * 7 + 5 * i) % 17]}" for i in range(4)]
            index = position % 4
            choices[0], choices[index] = choices[index], choices[0]
            rows.append(
                {
                    "id": f"q{number:02d}",
                    "question": f"What does item k{number:02d} hold?",
                    "choices": choices,
                    "answer_index": index,
                    "answers": [right],
                    "document_id": record["document_id"],
                    "kind": "item",
                    "source": record["source"],
                }
            )
        write_jsonl(folder / "questions.jsonl", rows)
        write_jsonl(folder / "instructions.jsonl", [])
        return {"questions": len(rows)}

    return store.make("questions", 1, {}, {"corpus": corpus}, build)


def decoder(seed: int = 0, *, vocabulary: int = 320, width: int = 32, layers: int = 2) -> LlamaForCausalLM:
    """A fresh decoder with rather large weights, so that differences do not drown in rounding."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def retro(seed: int = 0, **kwargs) -> RetroForCausalLM:
    """A Retro model whose cross-attention does something: its output projections are not zero."""
    model = RetroForCausalLM.from_decoder(
        decoder(seed, **kwargs), RetroOptions(chunk_tokens=CHUNK_TOKENS, cca_layers=(1, 2), encoder_layers=1)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("retro_cca.output.weight"):
                parameter.normal_(std=0.3, generator=generator)
    return model.eval()


def model_artefact(store: Store, model: PreTrainedModel, name: str) -> Artefact:
    """A model artefact of these weights."""

    def build(folder: Path, scratch: Path) -> dict:
        save(model, folder / "model")
        return {}

    return store.make("base", 1, {"name": name}, {}, build)
