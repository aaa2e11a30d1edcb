"""Icons and their names in one space: one nested model against models of single dims, and against cuts of the full one.

python -m experiments.icon_names --workdir=runs/icon_names --ff=8,128

The data come with a dependency. Trains `configs/align_b16_bert.py:small`, and for each dim of --ff the same model at
that dim alone; the largest of these is evaluated at smaller dims too, as a model that was not nested. Runs that are
there are not done again. Writes experiments/results/icon_names.json and a picture of what three texts find at three
dims.
"""

import pathlib

import jax
import numpy as np
from absl import app, flags
from PIL import Image, ImageDraw

from experiments.provenance import call, provenance
from mrl_jax import inputs, parts, results, trained, writers

WORKDIR = flags.DEFINE_string("workdir", "runs/icon_names", "Where data and runs go.")
FF = flags.DEFINE_list("ff", ["128"], "Dims of models to train alone.")
SEED = flags.DEFINE_integer("seed", 0, "Of the runs.")
QUERIES = flags.DEFINE_list("queries", ["camera", "shopping cart", "arrow left"], "Texts for the picture.")
OUT = flags.DEFINE_string("out", "experiments/results", "Where the JSON and the picture go.")
SHOWN = 10


def train(name: str, mode: str) -> dict:
    """Trains a run if it is not there, and returns its results by evaluator."""
    path = pathlib.Path(WORKDIR.value) / name
    config = [f"--config=configs/align_b16_bert.py:{mode}", f"--config.seed={SEED.value}"]
    call("train", *config, f"--config.data.dir={WORKDIR.value}/data", f"--workdir={path}")
    return {evaluator: found["values"] for evaluator, found in results.read(path).items()}


def cut(name: str, dims: str) -> dict:
    """The results of a run at dims that it was not trained at."""
    path = pathlib.Path(WORKDIR.value) / name
    call("evaluate", f"--workdir={path}", f"--dims={dims}")
    return {evaluator: found["values"] for evaluator, found in results.read(path).items()}


def search(path: pathlib.Path, texts: list[str], dims: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The test pictures nearest to each text at each dim, (texts, dims, SHOWN) rows, and all the pictures."""
    step = trained.choose_step(path, None)
    run = trained.assemble(path, step, trained.config_of(path, step))
    with jax.set_mesh(run.mesh):
        store = parts.feature_store(run, parts.make_embed(run), trained.variables(path, step, run))
        gallery = store("test").z_NxD
        queries = store.embed({"tokens": store.tokenize(texts)})
    rows = np.empty((len(texts), len(dims), SHOWN), int)
    for g, dim in enumerate(dims):
        u, v = (x[:, :dim] / np.linalg.norm(x[:, :dim], axis=1, keepdims=True) for x in (queries, gallery))
        rows[:, g] = np.argsort(-(u @ v.T), axis=1, kind="stable")[:, :SHOWN]
    source = inputs.eval_source(run.config, "test")
    return rows, np.stack([source.records[i]["image"] for i in range(len(source.records))])


def draw(path: pathlib.Path, images_RxSxHxWx1: np.ndarray, titles: list[str]) -> None:
    """A row of pictures, twice as large as they are, after each title."""
    sheet = Image.new("L", (150 + 70 * SHOWN, 70 * len(titles)), 255)
    pen = ImageDraw.Draw(sheet)
    for r, (title, images) in enumerate(zip(titles, images_RxSxHxWx1)):
        pen.text((6, 70 * r + 28), title, fill=0)
        for s, image in enumerate(images):
            large = Image.fromarray(255 - image[:, :, 0]).resize((64, 64))
            sheet.paste(large, (150 + 70 * s, 70 * r + 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    runs = {"mrl": train("mrl", "small")}
    dims = sorted({results.split_name(name)[1] for name in runs["mrl"]["pairs"]})
    for dim in FF.value:
        runs[f"ff{dim}"] = train(f"ff{dim}", f"small,ff={dim}")
    if FF.value:
        largest = max(FF.value, key=int)
        runs[f"ff{largest}, cut"] = cut(f"ff{largest}", ",".join(str(m) for m in dims if m <= int(largest)))
    record = {
        "command": f"python -m experiments.icon_names --ff={','.join(FF.value)} --seed={SEED.value}",
        "config": "configs/align_b16_bert.py:small",
        **provenance(),
        "unit": "fraction of the test pictures, of a family of icons not seen in training",
        "runs": runs,
    }
    writers.write_json(pathlib.Path(OUT.value) / "icon_names.json", record)
    shown = (min(dims), 32, max(dims))
    rows, images = search(pathlib.Path(WORKDIR.value) / "mrl", QUERIES.value, shown)
    titles = [f"{text}, {dim} dims" for text in QUERIES.value for dim in shown]
    draw(pathlib.Path(OUT.value) / "icon_names.png", images[rows.reshape(-1, SHOWN)], titles)


if __name__ == "__main__":
    app.run(main)
