"""Writes the features of a checkpoint over a dataset, at full dim; the same command continues or repairs.

python -m mrl_jax.embed --workdir=runs/q --out=features/q
python -m mrl_jax.embed --workdir=runs/q --step=800 --dataset=array_record:photos --split=train --out=features/photos \\
    --dtype=float16 --ops='decode|resize_small(256)|center_crop(224)'
python -m mrl_jax.embed --workdir=runs/sfsc --width=0.25 --out=features/phone       # by a sub-model of several widths
python -m mrl_jax.embed --workdir=runs/icons --pairs --out=features/icons           # captions too, in OUT/SPLIT_pair

Every split becomes a folder OUT/SPLIT with features.npy, labels.npy and manifest.json (see mrl_jax/features_dir.py).
"""

import pathlib

import jax
from absl import flags

from mrl_jax import commands, distributed, extract, features_dir, host_memory, trained


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    options = flags.FLAGS
    distributed.initialize(options.multihost)
    host_memory.keep_freed()
    path = pathlib.Path(options.workdir)
    if options.block_rows < 1:
        raise ValueError(f"--block_rows={options.block_rows} must be at least 1")
    step = trained.choose_step(path, options.step)
    base = trained.config_of(path, step, data_dir=options.data_dir)
    splits = options.split or list(dict.fromkeys([base.data.train_split, base.data.eval_split]))
    with distributed.together():
        for split in splits:
            config = trained.over(base, options.dataset, split, options.ops, options.batch_size)
            out = pathlib.Path(options.out) / split.replace("/", "_")
            own = {"dtype": options.dtype, "block_rows": options.block_rows, "width": options.width}
            own |= {"mirror": options.flips}
            for pair in (True, False) if options.pairs else (False,):  # where there are no pairs, nothing is written
                side = out.with_name(f"{out.name}_pair") if pair else out
                extract.extract(path, step, config, side, **own, recalibrate=options.recalibrate, pair=pair)
                if jax.process_index() == 0:
                    z, labels, info = features_dir.open_features(side)
                    print(
                        f"{side}: features {z.dtype}{z.shape}, labels {labels.shape} of {info.num_classes} classes, "
                        f"checkpoint {step}"
                    )


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The folder of a trained run.")
    flags.DEFINE_integer("step", None, "Which checkpoint; by default the newest intact one.")
    flags.DEFINE_string("dataset", None, "A name as config.data.name takes it; by default the run's own.")
    flags.DEFINE_list("split", [], "Splits of it; by default the run's train and eval split.")
    flags.DEFINE_string("out", None, "Where the features go: a folder OUT/SPLIT for every split. Rerun to continue.")
    flags.DEFINE_enum("dtype", "float32", extract.DTYPES, "Of the file.")
    flags.DEFINE_float("width", 1.0, "Of the sub-model, where the run trained several.")
    flags.DEFINE_integer("recalibrate", 0, "Compute BatchNorm's statistics anew from so many training batches first.")
    flags.DEFINE_bool("flips", False, "Means of the features of each image and of its mirror image.")
    flags.DEFINE_bool("pairs", False, "Also the other side of each pair, its caption or second text: OUT/SPLIT_pair.")
    flags.DEFINE_string("ops", None, "The transform of the images; by default the run's data.eval_ops.")
    flags.DEFINE_string("data_dir", None, "Where the data lies, if not where training read it.")
    flags.DEFINE_integer("batch_size", None, "Of all devices together; by default the run's data.eval_batch_size.")
    flags.DEFINE_integer("block_rows", extract.BLOCK_ROWS, "Rows between two points to continue from after a kill.")
    flags.DEFINE_enum("multihost", "auto", ["auto", "on", "off"], "Whether to join other processes (README).")
    flags.mark_flags_as_required(["workdir", "out"])
    commands.run(main, resumes="the same command continues")
