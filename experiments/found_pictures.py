"""A picture of what texts find among the test pictures of a dual encoder, at several dims."""

import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from mrl_jax import inputs
from mrl_jax.evals import exact
from mrl_jax.evals.features import FeatureStore

TILE, MARGIN = 70, 150  # pixels


def search(store: FeatureStore, texts: Sequence[str], dims: tuple[int, ...], count: int) -> np.ndarray:
    """The rows of the test split nearest to each text at each dim: (texts, dims, count)."""
    queries = store.embed({"tokens": store.tokenize(list(texts))[0]})
    _, rows_GxQxS = exact.search(queries, store("test").z_NxD, dims, count)
    return np.swapaxes(rows_GxQxS, 0, 1)


def draw(path: pathlib.Path, config, rows_QxGxS: np.ndarray, texts: Sequence[str], dims: tuple[int, ...]) -> None:
    """A row of pictures, twice as large as they are, for each text and dim; drawings in white become dark on white."""
    source = inputs.eval_source(config, "test")
    transform, rng = inputs.of(config, source).evaluation, np.random.default_rng(0)
    sheet = Image.new("RGB", (MARGIN + TILE * rows_QxGxS.shape[2], TILE * len(texts) * len(dims)), "white")
    pen = ImageDraw.Draw(sheet)
    titles = [f"{text}, {dim} dims" for text in texts for dim in dims]
    for y, (title, rows) in enumerate(zip(titles, rows_QxGxS.reshape(len(titles), -1))):
        pen.text((6, TILE * y + TILE // 2 - 6), title, fill="black")
        for x, row in enumerate(rows):
            pixels = transform(source.records[int(row)], rng)["image"]
            picture = Image.fromarray(255 - pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
            sheet.paste(picture.convert("RGB").resize((TILE - 6, TILE - 6)), (MARGIN + TILE * x, TILE * y + 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(128).save(path, optimize=True)
