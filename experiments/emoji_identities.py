"""Emoji as identities drawn by vendors, half of them never seen in training: the set of a study of compatibility.

python -m experiments.emoji_identities --npz=emoji_64.npz --data_dir=data/emoji
python -m mrl_jax.train --config=configs/icon_identities.py --workdir=runs/emoji \\
    --config.data.name=array_record:emoji --config.data.train_ops='decode(3)|random_shift(4)' \\
    --config.data.eval_ops='decode(3)'

The .npz file holds x, uint8 (N, H, W, 3); y, the concept of each; label, the names of the concepts; vendor, who drew
it; sets, the names of the vendors. Vendors whose drawings are near duplicates count as one camera, so that the rule
about cameras leaves them out. Splits train, query and gallery; `prepare` draws them by --seed.
"""

import pathlib

import numpy as np
from absl import app, flags

from experiments.provenance import call

# Sets that redraw another one: its colours shaded, flattened or taken away.
SAME_HAND = {
    "fluent-emoji-flat": "fluent-emoji",
    "fluent-emoji-high-contrast": "fluent-emoji",
    "emojione-monotone": "emojione",
}

NPZ = flags.DEFINE_string("npz", None, "The pictures.", required=True)
DATA_DIR = flags.DEFINE_string("data_dir", "data/emoji", "Where the prepared set goes.")
SIZE = flags.DEFINE_integer("size", 32, "Of the pictures.")
OPEN_SET = flags.DEFINE_float("open_set", 0.5, "The fraction of concepts that training never sees.")
SEED = flags.DEFINE_integer("seed", 0, "Of the concepts that are drawn.")


def named(source: str, target: pathlib.Path) -> None:
    """Writes the file that `prepare` reads: images, labels by name, and the hand that drew each."""
    with np.load(source) as file:
        images, concepts, names, vendor, sets = (file[key] for key in ("x", "y", "label", "vendor", "sets"))
    hands = np.array([SAME_HAND.get(str(name), str(name)) for name in sets])
    # Two concepts may go by one name.
    labels = np.array([f"{number:04d} {name}" for number, name in enumerate(names)])
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial.npz")
    np.savez(partial, images=images, labels=labels[concepts], hands=hands[vendor])
    partial.replace(target)


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    data_dir = pathlib.Path(DATA_DIR.value)
    arrays = data_dir.with_name(f"{data_dir.name}-arrays.npz")
    if not arrays.exists():
        named(NPZ.value, arrays)
    options = (f"--open_set={OPEN_SET.value}", f"--max_size={SIZE.value}", f"--seed={SEED.value}")
    call("prepare", str(arrays), f"--data_dir={data_dir}", "--camera_key=hands", *options)


if __name__ == "__main__":
    app.run(main)
