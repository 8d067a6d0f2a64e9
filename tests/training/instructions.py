"""Instructions about short texts, and a base and its retrofit to tune on them."""

from dataclasses import dataclass
from pathlib import Path

from chunkwise.core.artefact import Artefact
from chunkwise.core.io import write_jsonl
from chunkwise.core.store import Store
from chunkwise.corpus.config import CorpusConfig, SequencesConfig, SourceConfig, TokenizerConfig, TokensConfig
from chunkwise.corpus.stages import CORPUS, SEQUENCES, TOKENIZER, TOKENS
from chunkwise.datastore.config import DatastoreConfig
from chunkwise.datastore.stages import DATASTORE
from chunkwise.neighbours.config import NeighboursConfig
from chunkwise.neighbours.stages import NEIGHBOURS
from chunkwise.training.config import BaseConfig, InstructConfig, RetrofitConfig
from chunkwise.training.stages import BASE, INSTRUCT, RETROFIT
from tests.training.world import DECODER, OPTIONS, options

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "islet", "jetty", "knoll", "larch"]
INSTRUCTIONS = [
    {"instruction": f"What does item k{number:02d} hold?", "input": "", "output": f"{WORDS[number % 12]} wood"}
    for number in range(24)
]


@dataclass(frozen=True)
class Setting:
    store: Store
    tokens: Artefact
    datastore: Artefact
    instructions: Artefact
    base: Artefact
    retrofit: Artefact


def make_setting(root: Path) -> Setting:
    """24 texts in `root`/text, everything else in `root`/store; deterministic."""
    text = root / "text"
    if not text.exists():  # a second process must not rewrite what the first one reads
        text.mkdir()
        for number in range(24):
            lines = " ".join(WORDS[(number + step) % 12] for step in range(20))
            (text / f"k{number:02d}.txt").write_text(f"Item k{number:02d} holds {WORDS[number % 12]} wood. {lines}")
    store = Store(root / "store")
    source = SourceConfig(kind="text", path=str(text))
    config = CorpusConfig(
        sources=(source,), near_duplicate_jaccard=None, decontamination="none", held_fraction=0, valid_fraction=0
    )
    corpus = store.get_or_build(CORPUS, config)
    tokens = store.get_or_build(
        TOKENS,
        TokensConfig(),
        {
            "corpus": corpus,
            "tokenizer": store.get_or_build(TOKENIZER, TokenizerConfig(vocabulary_size=320), {"corpus": corpus}),
        },
    )
    sequences = store.get_or_build(SEQUENCES, SequencesConfig(sequence_tokens=16), {"tokens": tokens})
    datastore = store.get_or_build(DATASTORE, DatastoreConfig(chunk_tokens=4, min_chunk_tokens=2), {"tokens": tokens})
    neighbours = store.get_or_build(
        NEIGHBOURS, NeighboursConfig(K=60, overlap_tokens=None), {"datastore": datastore, "sequences": sequences}
    )

    def build(folder, scratch):
        write_jsonl(folder / "instructions.jsonl", INSTRUCTIONS)
        return {}

    instructions = store.make("questions", 1, {}, {"corpus": corpus}, build)
    base = store.get_or_build(BASE, BaseConfig(decoder=DECODER, train=options()), {"sequences": sequences}, seed=0)
    retrofit = store.get_or_build(
        RETROFIT,
        RetrofitConfig(retro=OPTIONS, train=options()),
        {"base": base, "sequences": sequences, "neighbours": neighbours, "datastore": datastore},
        seed=0,
    )
    return Setting(store, tokens, datastore, instructions, base, retrofit)


def instruct(setting: Setting, model: Artefact, **changes) -> Artefact:
    """`model`, tuned on the instructions."""
    train = options(**changes.pop("train", {}))
    config = InstructConfig(**{"prompt_tokens": 64, "answer_tokens": 16, "chunk_tokens": 4, "train": train} | changes)
    datastore = setting.datastore if config.passages or config.gate else None
    return setting.store.get_or_build(
        INSTRUCT,
        config,
        {"model": model, "instructions": setting.instructions, "tokens": setting.tokens, "datastore": datastore},
        seed=0,
    )
