"""Emoji with names and keywords as captions, drawn by vendors of which three are the test.

python -m experiments.emoji_captions --npz=emoji_64.npz --data_dir=data/emoji_captions

The .npz file holds what `experiments.emoji_identities` says; tags, the keywords of each concept joined by bars; and
skin, 0 for drawings without a skin tone. A caption is the name of the concept and, in training, one of its keywords, by
turns. Skin tones and flags, which few vendors drew, are left out. A tokenizer is made of the captions of training,
beside the set.
"""

import pathlib

import numpy as np
from absl import app, flags

from experiments.provenance import call

TEST = ("noto", "emojione", "emojione-monotone")  # whose drawings no other vendor's repeat
CONTEXT, PIECES = 16, 2000
FILES = ("arrays.npz", "captions.txt", "tokenizer.json")  # beside the set, its name before them

NPZ = flags.DEFINE_string("npz", None, "The pictures.", required=True)
DATA_DIR = flags.DEFINE_string("data_dir", "data/emoji_captions", "Where the prepared set goes.")
SIZE = flags.DEFINE_integer("size", 32, "Of the pictures.")
SEED = flags.DEFINE_integer("seed", 0, "Of the order of the examples.")


def caption(name: str, keywords: str, turn: int) -> str:
    """The name, and of the keywords that are not in it the one whose turn it is."""
    others = [word for word in keywords.split("|") if word not in name.split()]
    return f"{name}, {others[turn % len(others)]}" if others else name


def divided(source: str, target: pathlib.Path) -> list[str]:
    """Writes the file that `prepare` reads, {train,test}_{images,labels,captions}; returns the captions of training."""
    with np.load(source) as file:
        kept = (file["skin"] == 0) & ~np.char.startswith(file["label"], "flag: ")[file["y"]]
        images, concepts, vendor = (file[key][kept] for key in ("x", "y", "vendor"))
        names, tags, is_test = file["label"], file["tags"], np.isin(file["sets"], TEST)[vendor]
    # What is looked for in the test is the name alone, the same for all who drew it.
    captions = np.array(
        [names[c] if test else caption(str(names[c]), str(tags[c]), v) for c, v, test in zip(concepts, vendor, is_test)]
    )
    known = np.isin(concepts, concepts[~is_test])
    rows = {"train": ~is_test, "test": is_test & known}
    arrays = {f"{split}_images": images[chosen] for split, chosen in rows.items()}
    arrays |= {f"{split}_labels": names[concepts[chosen]] for split, chosen in rows.items()}
    arrays |= {f"{split}_captions": captions[chosen] for split, chosen in rows.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    partial.replace(target)
    return captions[rows["train"]].tolist()


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    data_dir = pathlib.Path(DATA_DIR.value)
    arrays, corpus, made = (data_dir.with_name(f"{data_dir.name}-{name}") for name in FILES)
    if not made.exists():
        corpus_lines = divided(NPZ.value, arrays)
        corpus.write_text("\n".join(corpus_lines) + "\n", encoding="utf-8")
        call("tokenizer", str(corpus), f"--out={made}", f"--size={PIECES}")
    keys = [f"--{name}_key={{split}}_{name}s" for name in ("image", "label")]
    text = ["--text_key={split}_captions", f"--tokenizer={made}", f"--context={CONTEXT}"]
    options = [f"--max_size={SIZE.value}", f"--seed={SEED.value}"]
    call("prepare", str(arrays), f"--data_dir={data_dir}", *keys, *text, *options)


if __name__ == "__main__":
    app.run(main)
