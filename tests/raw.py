"""Small sources of every kind, made on the spot, and what comes of them."""

import io
import json
import pathlib

import numpy as np
from PIL import Image

from mrl_jax.data import array_records, decoding, sources
from mrl_jax.data.preparing import running
from mrl_jax.data.preparing.spec import Spec


def picture(number: int, size: int = 24) -> np.ndarray:
    """Smooth, and another for each number."""
    cells = np.random.default_rng(number).integers(0, 256, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(cells).resize((size + 4, size), Image.Resampling.BICUBIC))


def jpeg(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", **options)
    return file.getvalue()


def folder(root: pathlib.Path, count: int = 12, split: str = "", first: int = 0) -> pathlib.Path:
    """Images of the classes cat, dog, owl in turn; image i is picture(first + i)."""
    for i in range(count):
        path = root / split / ("cat", "dog", "owl")[i % 3] / f"{first + i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(picture(first + i)))
    return root


def prepare(source, directory, workers=1, skip_fraction=0.0, beam="", **options) -> dict:
    spec = Spec(source=str(source), **options)
    return running.prepare(spec, directory, workers=workers, skip_fraction=skip_fraction, beam_arguments=beam)


def found(directory, split="train") -> list[tuple[bytes, object]]:
    """(pixels, label) of every record, by the route that training takes."""
    source = sources.load(f"array_record:{directory}", split, data_dir=".")
    records = [source.records[i] for i in range(len(source.records))]
    return [(decoding.decode(r["image"]).tobytes(), r["label"]) for r in records]


def pixels(data: bytes | np.ndarray) -> bytes:
    return decoding.decode(data).tobytes()


def files(directory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in pathlib.Path(directory).glob("*") if path.is_file()}


def dropped(directory) -> list[dict]:
    return [json.loads(line) for line in (pathlib.Path(directory) / running.DROPPED).read_text().splitlines()]


def manifest(directory) -> dict:
    return array_records.read_manifest(pathlib.Path(directory))
