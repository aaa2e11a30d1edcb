"""The input side of a config: its data, what becomes of a record by the kind of data, and the shapes of a batch."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from mrl_jax.choices import choose, naming
from mrl_jax.data import images, pipeline, resolution, sources
from mrl_jax.data.text import transforms
from mrl_jax.data.text.tokenizer import Tokenizer

NOT_INPUTS = ("label", "mask", "index", "caption", "picture", "score", "targets")
# The fields of data.text that each kind of data reads.
TEXT_FIELDS = {
    "image": (),
    "masked_text": ("context", "mask", "whole_word"),
    "image_text": ("context",),
    "text_pair": ("context", "negatives"),
}


class Transforms(NamedTuple):
    """What is done to records: in training, as (first step, transform) pairs, and in evaluation."""

    train: list[tuple[int, pipeline.Transform]]
    evaluation: pipeline.Transform


def of(config: ml_collections.ConfigDict, source: sources.Source) -> Transforms:
    """The transforms of `data.kind` for the records of a source.

    Raises:
      ValueError: for an unknown kind, records that lack what it needs, or options that do not fit.
    """
    choose("data.kind", config.data.kind, KINDS)
    make, needed = KINDS[config.data.kind]
    if not len(source.records):
        raise ValueError(f"dataset {source.name!r} split {source.split!r} has no records")
    missing = sorted(needed - source.records[0].keys())
    if missing:
        raise ValueError(
            f"data.kind={config.data.kind!r} needs records with {sorted(needed)}, and those of dataset {source.name!r} "
            f"have {sorted(source.records[0])}: prepare it with --tokenizer and --text_key, or set another data.kind"
        )
    return make(config, source)


def batches(
    config: ml_collections.ConfigDict, source: sources.Source
) -> list[tuple[int, dict[str, jax.ShapeDtypeStruct]]]:
    """The abstract batches of a run, each with the step it begins at: images may grow."""
    stages = []
    labels = (source.max_labels,) if source.max_labels > 1 else ()
    for first, transform in of(config, source).train:
        batch = _abstract(transform, source, config.batch_size, "data.train_ops")
        stages.append((first, batch | {"label": jax.ShapeDtypeStruct((config.batch_size, *labels), np.int32)}))
    return stages


def eval_batch(config: ml_collections.ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """What a model sees of a batch of data.eval_split, abstract."""
    source = eval_source(config, config.data.eval_split)
    transform, rows = of(config, source).evaluation, config.data.eval_batch_size
    return model_inputs(_abstract(transform, source, rows, "data.eval_ops"))


def _abstract(
    transform: pipeline.Transform, source: sources.Source, rows: int, field: str
) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of records like the first; where they have images, `field` names the operations that fail on it."""
    with naming(field) if "image" in transform.fields else contextlib.nullcontext():
        record = transform(source.records[0], np.random.default_rng(0))
    return {name: jax.ShapeDtypeStruct((rows, *record[name].shape), record[name].dtype) for name in transform.fields}


def train_source(data: ml_collections.ConfigDict) -> sources.Source:
    """The data to train on: one dataset or a mixture."""
    if not data.mixture:
        with naming(f"data.name={data.name!r}, data.train_split={data.train_split!r}"):
            return sources.load(data.name, data.train_split, data_dir=data.dir)
    with naming("data.mixture"):
        found = [sources.load(name, split, data_dir=data.dir) for name, split, _ in data.mixture]
    return sources.concatenate(found)


def check_negatives(wanted: int, source: sources.Source) -> None:
    """Raises ValueError unless each pair of a source has as many hard negatives as data.text.negatives wants."""
    if not 0 <= wanted <= source.negatives:
        raise ValueError(
            f"data.text.negatives={wanted}, and dataset {source.name!r} has {source.negatives} hard negatives a pair: "
            "prepare it with --negatives_key, or set it to " + (f"0..{source.negatives}" if source.negatives else "0")
        )


def eval_source(config: ml_collections.ConfigDict, split: str) -> sources.Source:
    """A split to evaluate on."""
    return sources.load(config.data.name, split, data_dir=config.data.dir)


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a model sees of a batch in evaluation."""
    return {name: value for name, value in batch.items() if name not in NOT_INPUTS}


def tokenize(
    config: ml_collections.ConfigDict, source: sources.Source
) -> Callable[[list[str]], tuple[np.ndarray, int]]:
    """Texts to token ids (N, T), int32, as those of a source, and how many were cut for that; it needs the library
    `tokenizers` when it is called.
    """

    def to_ids(texts: list[str]) -> tuple[np.ndarray, int]:
        if source.vocabulary is None or not source.vocabulary.path.is_file():
            raise ValueError(f"dataset {source.name!r} has no tokenizer: texts cannot be made into its token ids")
        rows, cut = Tokenizer(source.vocabulary.path).batch(texts, _context(config, source))
        return np.array(rows, np.int32), cut

    return to_ids


def tokenizer_of(source: sources.Source) -> str | None:
    """The SHA-256 of the tokenizer that its texts were made with; None where there are none."""
    return source.vocabulary.sha256 if source.vocabulary else None


def check_tokenizer(trained: str | None, source: sources.Source, where: str) -> None:
    """Raises ValueError where parameters were trained with another tokenizer than that of the data; None: with none."""
    own = tokenizer_of(source)
    if trained and own and trained != own:
        raise ValueError(
            f"{where} was trained with the tokenizer of SHA-256 {trained[:12]}, and dataset {source.name!r} was made "
            f"with {source.vocabulary.path} of SHA-256 {own[:12]}: prepare the data with the tokenizer of the training"
        )


def check_text(kind: str, text: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises ValueError for a field of data.text that is set, and that no record of this kind has a use for."""
    for name, value in text.items():
        if name not in TEXT_FIELDS[kind] and value != defaults[name]:
            kinds = [other for other, names in TEXT_FIELDS.items() if name in names]
            raise ValueError(
                f"data.text.{name}={value!r} has no meaning for data.kind={kind!r}: set it to {defaults[name]!r}, or "
                f"data.kind to one of {kinds}"
            )


def cut_share(config: ml_collections.ConfigDict, source: sources.Source, looked_at: int = 1000) -> float:
    """The share of records that data.text.context cuts a text of, of so many spread over the source; 0 as prepared."""
    context, fields = config.data.text.context, KINDS[config.data.kind][1] - {"image"}
    if not fields or not 0 < context < source.context:
        return 0.0
    chosen = np.unique(np.linspace(0, len(source.records) - 1, looked_at).astype(int))
    records = (source.records[int(i)] for i in chosen)
    return sum(any(len(record[name]) > context for name in fields) for record in records) / len(chosen)


def _images(config, source):
    data = config.data
    found = resolution.specs(data.train_ops, data.resolution.points, data.resolution.multiple, config.total_steps)
    with naming("data.train_ops"):
        train = [(first, images.parse(spec)) for first, spec in found]
    with naming("data.eval_ops"):
        return Transforms(train, images.parse(data.eval_ops))


def _masked_text(config, source):
    text = config.data.text
    if not 0 < text.mask < 1:
        raise ValueError(f"data.text.mask={text.mask} must be in (0, 1), the share of the pieces to be guessed")
    words = source.vocabulary
    if text.whole_word and (words.continues | words.special).all():
        raise ValueError(
            f"data.text.whole_word=True, and no piece of {words.path} begins a word (with 'Ġ' or '▁'): set it to "
            "False, or prepare the data with another tokenizer"
        )
    own = transforms.Text(words, _context(config, source), float(text.mask), bool(text.whole_word))
    return Transforms([(0, own)], own)


def _image_text(config, source):
    found = _images(config, source)
    arguments = source.vocabulary, _context(config, source)
    train = [(first, transforms.Captioned(own, *arguments)) for first, own in found.train]
    return Transforms(train, transforms.Captioned(found.evaluation, *arguments))


def _text_pair(config, source):
    own, negatives = transforms.Pair(source.vocabulary, _context(config, source)), config.data.text.negatives
    return Transforms([(0, dataclasses.replace(own, negatives=negatives))], own)


def _context(config, source):
    context = config.data.text.context or source.context
    if context < 3:
        raise ValueError(f"data.text.context={context} must be at least 3 ids: [CLS], a piece and [SEP]; or 0")
    return context


# The transforms of each kind of data, and the fields of a record that they need.
KINDS: dict[str, tuple[Callable[..., Transforms], set[str]]] = {
    "image": (_images, {"image"}),
    "masked_text": (_masked_text, {"tokens"}),
    "image_text": (_image_text, {"image", "tokens"}),
    "text_pair": (_text_pair, {"tokens", "tokens_2"}),
}
