"""A small corpus, a tokenizer trained on it, and what is prepared of it."""

import json
import pathlib

import numpy as np
import raw

from mrl_jax.data.text import tokenizer

WORDS = ("red", "green", "blue", "small", "large", "round", "square", "house", "houses", "housing", "tree", "river")


def sentences(count: int, seed: int = 0, length: int = 9) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, length)) + "." for _ in range(count)]


def corpus(path: pathlib.Path, count: int = 60, seed: int = 0) -> pathlib.Path:
    path.write_text("\n\n".join(sentences(count, seed)) + "\n", encoding="utf-8")
    return path


def trained(path: pathlib.Path, kind: str = "wordpiece", size: int = 60) -> pathlib.Path:
    tokenizer.train(sentences(60), path, kind=kind, size=size if kind == "wordpiece" else 300, lowercase=True)
    return path


def prepared(root: pathlib.Path, context: int = 16, pack: bool = True) -> pathlib.Path:
    """train and test splits of packed text in root / "d"."""
    source, made = corpus(root / "corpus.txt"), trained(root / "tokenizer.json")
    splits = {"train": 0.8, "test": 0.2}
    raw.prepare(source, root / "d", tokenizer=str(made), context=context, pack=pack, splits=splits)
    return root / "d"


def records(directory: pathlib.Path, split: str = "train") -> list[dict]:
    from mrl_jax.data import sources

    found = sources.load(f"array_record:{directory}", split, data_dir=".").records
    return [found[i] for i in range(len(found))]


def write_jsonl(path: pathlib.Path, rows: list[dict]) -> pathlib.Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
