"""The base model that ships with the package: a small Llama trained on the laptop corpus, its split `train` alone.

    python experiments/base_model.py --out chunkwise/packs/laptop/base

About 4 million tokens; some minutes on two idle cores. Interrupted, it goes on from its last checkpoint when it is
called again. Writes the model (safetensors), its tokenizer, and `record/` (curves, FLOPs, recipe and input digests):
what `pretrained: packaged` in a profile means.
"""

import argparse
import shutil
from pathlib import Path

from chunkwise.core.artefact import Artefact
from chunkwise.core.store import Store
from chunkwise.corpus.config import CorpusConfig, SequencesConfig, TokenizerConfig, TokensConfig
from chunkwise.corpus.stages import CORPUS, SEQUENCES, TOKENIZER, TOKENS
from chunkwise.lab.profile import load_profile
from chunkwise.training.config import BaseConfig, DecoderConfig
from chunkwise.training.options import TrainOptions
from chunkwise.training.stages import BASE

TOKENIZER_CONFIG = TokenizerConfig(vocabulary_size=4096)
BASE_CONFIG = BaseConfig(
    decoder=DecoderConfig(width=128, layers=4, heads=4, max_tokens=2048),
    train=TrainOptions(
        tokens=4_096_000,
        batch_sequences=16,
        learning_rate=3e-3,
        schedule="wsd",
        decay_share=0.25,
        final_share=0.05,
        warmup_steps=50,
        log_steps=50,
        validation_steps=200,
        checkpoint_steps=100,
    ),
)


def train(config: BaseConfig, corpus_config: CorpusConfig, store: Store, out: Path) -> Artefact:
    """Train a decoder on the split `train` of a corpus; write it and its tokenizer, and return the artefact."""
    corpus = store.get_or_build(CORPUS, corpus_config)
    tokenizer = store.get_or_build(TOKENIZER, TOKENIZER_CONFIG, {"corpus": corpus})
    tokens = store.get_or_build(TOKENS, TokensConfig(), {"corpus": corpus, "tokenizer": tokenizer})
    sequences = store.get_or_build(SEQUENCES, SequencesConfig(split="train", sequence_tokens=256), {"tokens": tokens})
    validation = store.get_or_build(SEQUENCES, SequencesConfig(split="valid", sequence_tokens=256), {"tokens": tokens})
    base = store.get_or_build(BASE, config, {"sequences": sequences, "validation": validation}, seed=0)
    out.mkdir(parents=True, exist_ok=True)
    for file in (*(base.path / "model").iterdir(), *map(tokenizer.file, ("tokenizer.json", "tokenizer_config.json"))):
        shutil.copyfile(file, out / file.name)
    return base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    base = train(BASE_CONFIG, load_profile("laptop").corpus, Store(), out)
    (out / "record").mkdir(exist_ok=True)
    for name in ("training.json", "record.json"):
        shutil.copyfile(base.file(name), out / "record" / name)


if __name__ == "__main__":
    main()
