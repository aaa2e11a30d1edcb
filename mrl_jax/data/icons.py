"""The embedded default dataset: icon fonts of the pip package qtawesome, rendered once at 32x32 in grey.

A class is a concept ("camera"); every family of fonts draws it in its own style. Train: every family but Phosphor.
Test: Phosphor, a style never seen. So the test set asks for the concept, and not for the drawing.
"""

import errno
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from PIL import Image, ImageDraw, ImageFont

from mrl_jax.data import array_records

SIZE = 32
TEST_FAMILY = "phosphor"
MIN_TRAIN = 3  # train images a concept needs, to become a class
RULES = 2  # raised with every change to what is rendered, so that nobody trains on the images of other rules
LICENCE = "qtawesome: MIT; its fonts: MIT, Apache-2.0, OFL-1.1, CC-BY-4.0. Some glyphs are trademarks of their owners."

_PREFIX = re.compile(r"^(outline|round|sharp|baseline|twotone|ios|md|logo|bx\w*)-")
_SUFFIX = re.compile(
    r"-(outline|rounded|sharp|fill(ed)?|solid|line(ar)?|bold|duotone|twotone|thin|light|regular|broken|remix|flat|color"
    r"|variant|alt|\d+)$"
)


class Glyph(NamedTuple):
    """One drawing: (32, 32, 1) uint8, what it shows, and the family of fonts it comes from."""

    image: np.ndarray
    concept: str
    family: str
    name: str = ""  # the whole of its name, "camera-outline"


class Arranged(NamedTuple):
    """Drawings as a dataset: the names of the classes, the records by split, what else the manifest says, and the texts
    of other files by name.
    """

    names: tuple[str, ...]
    splits: dict[str, list[dict[str, Any]]]
    facts: dict[str, Any]
    files: Mapping[str, str] = {}


def concept(name: str) -> str:
    """An icon's name less the words of style around it: "camera-outline" and "camera-fill" are both "camera"."""
    name = _PREFIX.sub("", name)
    while (shorter := _SUFFIX.sub("", name)) not in ("", name):
        name = shorter
    return name


def glyphs(fonts: pathlib.Path) -> Iterator[Glyph]:
    """Every glyph that leaves a mark, centred, by family; a raster seen before is dropped."""
    seen = set()
    for path in sorted(fonts.glob("*.ttf")):
        family = re.sub(r"(-webfont)?-[0-9.]+\.ttf$", "", path.name)
        (charmap,) = fonts.glob(f"{family}-*charmap*.json")
        # The basic layout engine gives the same raster wherever Pillow was built.
        font = ImageFont.truetype(os.fspath(path), SIZE - 6, layout_engine=ImageFont.Layout.BASIC)
        for name, code in json.loads(charmap.read_text(encoding="utf-8")).items():
            image = _draw(chr(int(code, 16)), font)
            if image.any() and image.tobytes() not in seen:
                seen.add(image.tobytes())
                yield Glyph(image, concept(name), family, name)


def split(drawings: list[Glyph]) -> tuple[tuple[str, ...], list[dict[str, Any]], list[dict[str, Any]]]:
    """The names of the classes, the train records and the test records.

    A concept is a class where the test family draws it and the other families do at least MIN_TRAIN times.
    """
    train = [g for g in drawings if g.family != TEST_FAMILY]
    test = [g for g in drawings if g.family == TEST_FAMILY]
    count, tested = Counter(g.concept for g in train), {g.concept for g in test}
    names = tuple(sorted(c for c in tested if count[c] >= MIN_TRAIN))
    label = {name: i for i, name in enumerate(names)}
    return names, *(
        [{"image": g.image, "label": label[g.concept]} for g in side if g.concept in label] for side in (train, test)
    )


def by_style(drawings: list[Glyph]) -> Arranged:
    """`split` as a dataset."""
    names, train, test = split(drawings)
    return Arranged(names, {"train": train, "test": test}, {})


def prepare(
    data_dir: pathlib.Path, variant: str = "", arrange: Callable[[list[Glyph]], Arranged] = by_style
) -> pathlib.Path:
    """The directory of the rendered icons under `data_dir`, rendering them first where it is not there or is damaged.

    Drawings are put into splits by `arrange`, under the name `variant`.

    The directory appears in one piece: of several processes at once, one gets to put its own there, and all use it.

    Raises:
      FileNotFoundError: where qtawesome is not installed.
      OSError: where `data_dir` cannot be written to.
    """
    spec = importlib.util.find_spec("qtawesome")
    if spec is None:
        raise FileNotFoundError("dataset 'icons' is rendered from the fonts of qtawesome: pip install 'qtawesome<1.5'")
    version = importlib.metadata.version("qtawesome")
    target = data_dir / "icons" / f"{RULES}-qtawesome-{version}{variant and '-'}{variant}"
    if _intact(target):
        return target
    logging.info("Rendering the icons of qtawesome %s into %s", version, target)
    partial = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        _render(pathlib.Path(spec.submodule_search_locations[0]) / "fonts", version, partial, arrange)
        _install(partial, target)
    except OSError as error:
        raise OSError(error.errno, f"cannot write the icons to {target} ({error}): name another data_dir") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _draw(char: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    canvas = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = draw.textbbox((0, 0), char, font=font)
    draw.text(((SIZE - right + left) / 2 - left, (SIZE - bottom + top) / 2 - top), char, font=font, fill=255)
    return np.asarray(canvas)[:, :, None]


def _render(
    fonts: pathlib.Path, version: str, directory: pathlib.Path, arrange: Callable[[list[Glyph]], Arranged]
) -> None:
    names, splits, facts, files = arrange(list(glyphs(fonts)))
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    shards = {
        side: [array_records.write_shard(directory / f"{side}-00000-of-00001.array_record", examples)]
        for side, examples in splits.items()
    }
    known = facts.get("split_classes", {})
    manifest = {
        "name": "icons",
        "source": f"qtawesome {version}",
        "licence": LICENCE,
        "num_classes": len(names),
        "label_names": names,
        "max_labels": 1,
        "class_counts": {side: _counts(examples, known.get(side, len(names))) for side, examples in splits.items()},
        **facts,
        "splits": shards,
    }
    array_records.write_manifest(directory, manifest)


def _counts(examples: list[dict[str, Any]], classes: int) -> list[int]:
    return np.bincount([example["label"] for example in examples], minlength=classes).tolist()


def _intact(target: pathlib.Path) -> bool:
    try:
        for shards in array_records.read_manifest(target)["splits"].values():
            array_records.open_split(target, shards, checksums=True)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except ValueError as error:
        logging.warning("The rendered icons are damaged: %s", error)
        return False
    return True


def _install(partial: pathlib.Path, target: pathlib.Path) -> None:
    """Moves `partial` to `target`; keeps what is there already, where that is intact."""
    while True:
        try:
            partial.rename(target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if _intact(target):
            return
        damaged = partial.with_name(f"{partial.name}-damaged")
        try:
            target.rename(damaged)
        except FileNotFoundError:  # another process has just moved it
            continue
        shutil.rmtree(damaged, ignore_errors=True)
