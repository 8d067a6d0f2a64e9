"""The base model that ships with the package: a small Llama trained on the laptop corpus, its split `train` alone.

    python experiments/base_model.py --out chunkwise/base

About 4 million tokens; some minutes on two idle cores. Interrupted, it goes on from its last checkpoint when it is
called again. Writes the model (safetensors), its tokenizer, and `record/` (curves, FLOPs, recipe and input digests):
what `pretrained: packaged` in a profile means.
"""

import argparse
import shutil
from pathlib import Path

from chunkwise.ablation.config import load_profile
from chunkwise.core.artefact import Artefact
from chunkwise.core.store import Store
from chunkwise.corpus.config import CorpusConfig, SequencesConfig, TokenizerConfig, TokensConfig
from chunkwise.corpus.stage import build_corpus, pack_sequences, tokenize, train_tokenizer
from chunkwise.training.config import BaseConfig, DecoderConfig, TrainOptions
from chunkwise.training.stage import train_base

TOKENIZER = TokenizerConfig(vocabulary_size=4096)
BASE = BaseConfig(
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
    corpus = build_corpus(corpus_config, store)
    tokenizer = train_tokenizer(TOKENIZER, corpus, store)
    tokens = tokenize(TokensConfig(), corpus, tokenizer, store)
    sequences = pack_sequences(SequencesConfig(split="train", sequence_tokens=256), tokens, store)
    validation = pack_sequences(SequencesConfig(split="valid", sequence_tokens=256), tokens, store)
    base = train_base(config, sequences, store, 0, validation=validation)
    out.mkdir(parents=True, exist_ok=True)
    for file in (*(base.path / "model").iterdir(), *map(tokenizer.file, ("tokenizer.json", "tokenizer_config.json"))):
        shutil.copyfile(file, out / file.name)
    return base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    base = train(BASE, load_profile("laptop").corpus, Store(), out)
    (out / "record").mkdir(exist_ok=True)
    for name in ("training.json", "record.json"):
        shutil.copyfile(base.file(name), out / "record" / name)


if __name__ == "__main__":
    main()
