"""Makes images and texts as they come into a dataset that training reads: sharded ArrayRecord with a manifest.

SOURCE is a folder of images (train/CLASS/x.jpg, or CLASS/x.jpg), tar files as webdataset has them (a folder, a file or
a glob), a list of paths with labels (.csv, .tsv, .jsonl, .parquet), arrays (.npz), or a dataset by name (tfds:NAME,
array_record:DIR). Texts, made into token ids by --tokenizer (see python -m mrl_jax.tokenizer), come from .txt files
(one text a line), or from --text_key: a column of a list, the ending of a tar's members, an array.

python -m mrl_jax.prepare photos --data_dir=data/photos --splits=train:0.9,test:0.1
python -m mrl_jax.prepare imagenet --data_dir=data/imagenet --max_size=512 --seed=0 --workers=16
python -m mrl_jax.prepare 'jft/*.tar' --data_dir=data/jft --labels=classes.txt --skip_fraction=0.001
python -m mrl_jax.prepare Market-1501-v15.09.15 --layout=market1501 --data_dir=data/market
python -m mrl_jax.prepare emoji.npz --image_key=x --label_key=y --camera_key=vendor --open_set=0.5 --data_dir=data/emoji
python -m mrl_jax.prepare list.csv --data_dir=data/web --label_separator=';' --exclude_near=data/imagenet:val
python -m mrl_jax.prepare corpus.txt --data_dir=data/corpus --tokenizer=tokenizer.json --context=128 --pack
python -m mrl_jax.prepare pairs.csv --data_dir=data/pairs --image_key=path --text_key=caption --tokenizer=tokenizer.json
python -m mrl_jax.prepare sts.tsv --data_dir=data/sts --text_key=sentence1,sentence2 --score_key=score \
  --tokenizer=tokenizer.json
python -m mrl_jax.prepare mined.jsonl --data_dir=data/mined --text_key=query,positive --negatives_key=negatives \
  --tokenizer=tokenizer.json

The same command goes on after a kill, and writes the same bytes.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from mrl_jax import commands
from mrl_jax.data import array_records
from mrl_jax.data.preparing import readers, running
from mrl_jax.data.preparing.layouts import LAYOUTS
from mrl_jax.data.preparing.spec import Spec, parse_splits

READER_FLAGS = (
    *("image_key", "label_key", "text_key", "score_key", "negatives_key", "split_key"),
    *("label_separator", "root", "source_dir", "camera_key"),
)


def spec_of(source: str, options: flags.FlagValues) -> Spec:
    """What the flags ask for."""
    reader = {name: getattr(options, name) for name in READER_FLAGS if getattr(options, name) is not None}
    splits = parse_splits(options.splits)
    if readers.kind_of(source, options.layout) == "named":
        reader = {"source_dir": "data"} | reader
        if splits and not isinstance(splits, Mapping):
            reader["source_splits"] = splits
    return Spec(
        source=source,
        reader=reader,
        splits=splits,
        labels=options.labels,
        shards=options.shards,
        max_size=options.max_size,
        side=options.side,
        quality=options.quality,
        seed=options.seed,
        duplicates=options.duplicates,
        exclude_near=tuple(options.exclude_near),
        exclude_from=tuple(options.exclude_from),
        hash_distance=options.hash_distance,
        licence=options.licence,
        layout=options.layout,
        open_set=options.open_set,
        tokenizer=options.tokenizer,
        context=options.context,
        pack=options.pack,
    )


def describe(manifest: Mapping[str, Any], directory: pathlib.Path) -> str:
    """What a person wants to know of a prepared dataset."""
    lines = []
    for split, shards in manifest["splits"].items():
        examples, size = (sum(shard[key] for shard in shards) for key in ("examples", "bytes"))
        counts = manifest["class_counts"][split]
        if "split_classes" in manifest:  # the others are no classes of this split
            counts = [count for count in counts if count]
        classes = f", {len(counts)} classes of {min(counts)} to {max(counts)} examples" if len(counts) > 1 else ""
        lines.append(f"{split}: {examples} examples in {len(shards)} shards, {size / 1e6:.1f} MB{classes}")
        if "text" in manifest and manifest["truncated"][split]:
            lines.append(
                f"{split}: {manifest['truncated'][split]} texts were longer than {manifest['text']['context']} ids and "
                "were cut"
            )
        if manifest["dropped"][split]:
            found = ", ".join(f"{count} {reason}" for reason, count in manifest["dropped"][split].items())
            lines.append(f"{split}: left out {found}; listed in {directory / running.DROPPED}")
    if manifest["max_labels"] > 1:
        lines.append(f"Up to {manifest['max_labels']} labels an example: train with loss.name='binary'")
    return "\n".join([*lines, f"Train on it with --config.data.name=array_record:{directory.absolute()}"])


def main(argv: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    if len(argv) != 2:
        raise ValueError(f"give one SOURCE, not {argv[1:]}: python -m mrl_jax.prepare SOURCE --data_dir=DIR")
    directory = pathlib.Path(options.data_dir).expanduser()
    manifest = running.prepare(
        spec_of(argv[1], options),
        directory,
        workers=options.workers,
        skip_fraction=options.skip_fraction,
        beam_arguments=options.beam,
    )
    print(describe(manifest, directory))
    print(f"Wrote {directory / array_records.MANIFEST}")


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "The folder of the prepared dataset.")
    flags.DEFINE_integer("shards", 0, "The most files of each split; 0: one for about 2048 examples.")
    flags.DEFINE_integer("workers", len(os.sched_getaffinity(0)), "Processes.")
    flags.DEFINE_integer("max_size", 0, "Makes images smaller whose --side has more pixels; 0: bytes stay untouched.")
    flags.DEFINE_enum("side", "short", ["short", "long"], "The side that --max_size means.")
    flags.DEFINE_integer("quality", 95, "JPEG quality of images that are made smaller.")
    flags.DEFINE_list("splits", [], "Splits to take (train,val), or fractions to divide by (train:0.9,test:0.1).")
    flags.DEFINE_string("labels", "", "A file with the names of the classes, one a line, in their order.")
    flags.DEFINE_float("skip_fraction", 0.0, "The most that may be undecodable or mislabelled, and is skipped.")
    flags.DEFINE_enum("duplicates", "error", ["error", "skip"], "What an example gets that comes a second time.")
    flags.DEFINE_string("licence", "", "A note on the licence, for the manifest.")
    flags.DEFINE_integer("seed", None, "Shuffles the records over the shards; by default they keep their order.")
    flags.DEFINE_list(
        "exclude_near", [], "Prepared datasets (DIR or DIR:SPLIT): what looks like their images is left out."
    )
    flags.DEFINE_list("exclude_from", ["train"], "The splits that --exclude_near leaves examples out of.")
    flags.DEFINE_integer("hash_distance", 6, "How many of 64 bits may differ between images that look alike.")
    flags.DEFINE_string("layout", "", f"A known layout of files in the folder SOURCE: {', '.join(LAYOUTS)}.")
    flags.DEFINE_float(
        "open_set", 0.0, "The fraction of the classes that is kept from training and becomes splits query and gallery."
    )
    flags.DEFINE_string("camera_key", None, "Lists and arrays: the column or array of the cameras (vendors, shops).")
    flags.DEFINE_string("image_key", None, "Lists: the column of the paths. Arrays: that of the images.")
    flags.DEFINE_string("label_key", None, "The column, array, or field of a sample's json that holds the labels.")
    flags.DEFINE_string("text_key", None, "Where the text is; two columns of a list, as in a,b, for texts that match.")
    flags.DEFINE_string("score_key", None, "Lists of two texts: the column that says how alike they are.")
    flags.DEFINE_string(
        "negatives_key", None, "Lists of two texts: the columns of hard negatives of the first, equally many a row."
    )
    flags.DEFINE_string("tokenizer", "", "The tokenizer.json that texts are made into ids with.")
    flags.DEFINE_integer("context", 128, "The most ids of a text, [CLS] and [SEP] among them.")
    flags.DEFINE_bool("pack", False, "Lays texts end to end in rows of --context ids, for masked language modelling.")
    flags.DEFINE_string("split_key", None, "Lists: the column of the splits.")
    flags.DEFINE_string("label_separator", None, "Lists: what stands between several labels of an example.")
    flags.DEFINE_string("root", None, "Lists: the folder that relative paths start from; by default that of the list.")
    flags.DEFINE_string("source_dir", None, "tfds:NAME: the folder that TFDS stored it in; by default data.")
    flags.DEFINE_string("beam", "", "Writes the shards by Apache Beam, with these arguments: '--runner=DirectRunner'.")
    flags.mark_flag_as_required("data_dir")
    commands.run(main, words=True)
