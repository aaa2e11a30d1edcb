"""Features of a model over one split of a dataset, into a directory, by every device of every process.

Reading, computing and writing overlap: batches are read ahead, the devices are handed the next batch before the last
one is done, and a thread takes what they have finished to the disk. Of several processes the first one writes; each
computes its rows of every batch, and the devices gather them.
"""

import collections
import hashlib
import pathlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mrl_jax import features_dir, flips, inputs, parts, progress, sharding, trained, workdir
from mrl_jax.data import labels as columns
from mrl_jax.data import pipeline, sources
from mrl_jax.features_writer import FeaturesWriter, Layout
from mrl_jax.nesting import Nesting

BLOCK_ROWS = 8192
DTYPES = ("float32", "float16")
_IN_FLIGHT = 3  # batches handed to the devices and not yet known to be done


def extract(
    path: pathlib.Path,
    step: int,
    config: Any,
    out: pathlib.Path,
    *,
    dtype: str = "float32",
    block_rows: int = BLOCK_ROWS,
    width: float = 1.0,
    recalibrate: int = 0,
    pair: bool = False,
    mirror: bool = False,
) -> None:
    """Writes the features of a checkpoint to `out`, or what is missing of them there.

    Args:
      path: the run's folder.
      step: of the checkpoint.
      config: as `trained.over` gives it: the data are its `data.eval_split`.
      out: the directory, as `features_dir` describes it.
      dtype: float16 or float32, of the file.
      block_rows: rows between two points from which an interrupted run continues.
      width: of the sub-model.
      recalibrate: so many batches of the run's training that BatchNorm's statistics are computed anew from; 0: none.
      pair: of the other side of each pair, its caption or second text, in place of the first.
      mirror: means of the features of each image and of its mirror image.

    Raises:
      ValueError: where the model has no such width or no statistics to recalibrate, the data have no pairs or mirror
        images or do not fit the model, `out` holds other features, or a value is not finite.
      OSError: where `out` cannot be written to.
    """
    run = trained.assemble(path, step, config)
    trained.check_width(run, width)
    trained.check_recalibrated(run, recalibrate)
    if mirror:
        flips.check(config.data.kind)
    if pair and "caption" not in run.abstract_batch:
        raise ValueError(
            f"--pairs: dataset {config.data.name!r} read as data.kind={config.data.kind!r} has no pairs: leave it out"
        )
    with workdir.owned(out, "--out"), jax.set_mesh(run.mesh):
        own = identity(path, step, run, dtype) | ({} if width == 1 else {"width": width})
        own |= {"side": "pair"} if pair else {}
        own |= {"recalibrated": recalibrate} if recalibrate else {}
        own |= {"views": flips.VIEWS} if mirror else {}
        writer, needed, block_rows = _open(run, out, own, dtype, block_rows, run.model.nestings[width])
        if writer:
            write_fields(out, run.train_source)
        if not needed.any():
            if writer:
                writer.close()
            return
        variables = trained.variables(path, step, run)
        if recalibrate:  # on the run's own training data, whatever is embedded
            training = trained.assemble(path, step, trained.config_of(path, step, data_dir=config.data.dir))
            variables = trained.recalibrated(training, variables, recalibrate)
        try:
            fill(run, variables, make_embed(run, dtype, width, pair, mirror), writer, needed, block_rows)
        except BaseException:
            if writer:
                writer.abandon()
            raise
        if writer:
            writer.close()


def write_fields(out: pathlib.Path, source: sources.Source) -> None:
    """Writes what the records have besides image and label, such as cameras, to its files in `out`."""
    for name in source.fields:
        features_dir.write_field(out, name, columns.field(source, name))


def identity(path: pathlib.Path, step: int, run: parts.Parts, dtype: str) -> dict[str, Any]:
    """What tells features from any others: the checkpoint, the data and how they are read, the dtype."""
    source, data = run.train_source, run.config.data
    fields = {name: features_dir.digest(columns.field(source, name)) for name in source.fields}
    return {
        "checkpoint": trained.identity(path, step),
        "dataset": {
            "name": data.name,
            "split": data.eval_split,
            "ops": data.eval_ops,
            "examples": len(source.records),
            "sha256_of_three": _fingerprint(source),
        },
        "dtype": dtype,
        **({"fields": fields} if fields else {}),
    }


def _fingerprint(source: sources.Source) -> str:
    """A digest of the first, the middle and the last record: the same wherever the data lie."""
    digest, n = hashlib.sha256(), len(source.records)
    for index in sorted({0, n // 2, n - 1}):
        record = source.records[index]
        for name in sorted(record):
            value = record[name]
            digest.update(name.encode())
            digest.update(value if isinstance(value, bytes) else np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _open(
    run: parts.Parts, out: pathlib.Path, own: dict[str, Any], dtype: str, block_rows: int, nesting: Nesting
) -> tuple[FeaturesWriter | None, np.ndarray, int]:
    """The first process's writer, which blocks are needed, and the rows of a block; the last two on every process."""
    source = run.train_source
    layout = Layout(
        rows=len(source.records),
        dim=nesting.full,
        dtype=dtype,
        labels=(source.max_labels,) if source.max_labels > 1 else (),
        num_classes=source.num_classes,
        label_names=source.label_names,
        dims=nesting.dims,
    )
    if jax.process_count() == 1:
        writer = FeaturesWriter(out, own, layout, block_rows)
        return writer, writer.missing, writer.block_rows
    writer, failure, needed = None, None, np.zeros(len(source.records) + 2, np.int32)
    if jax.process_index() == 0:
        try:
            writer = FeaturesWriter(out, own, layout, block_rows)
            needed[:2] = writer.block_rows, len(writer.missing)
            needed[2 : 2 + len(writer.missing)] = writer.missing
        except (ValueError, OSError) as error:
            failure = error
    needed = multihost_utils.broadcast_one_to_all(needed)
    if failure:
        raise failure
    if needed[0] == 0:
        raise ValueError(f"--out={out}: the first process could not open it; its error says why")
    return writer, needed[2 : 2 + int(needed[1])].astype(bool), int(needed[0])


def fill(
    run: parts.Parts,
    variables: Any,
    embed: Any,
    writer: FeaturesWriter | None,
    needed: np.ndarray,
    block_rows: int,
) -> None:
    """Hands the rows of the needed blocks to the writer (None: another process writes); `embed` as `make_embed`'s."""
    rows, size = len(run.train_source.records), run.config.data.eval_batch_size
    label = f"{run.config.data.name} {run.config.data.eval_split}"
    missing = sum(min(block_rows, rows - i * block_rows) for i in np.flatnonzero(needed))
    bar = progress.Rows(label, rows, rows - missing, enabled=jax.process_index() == 0)
    in_flight: collections.deque[jax.Array] = collections.deque()
    for first, last in _runs(needed):
        start, stop = first * block_rows // size, -(-min(last * block_rows, rows) // size)
        for number, batch in enumerate(_batches(run, start, stop), start):
            _check_rows(batch, number * size + sharding.rows_of_process(size, run.mesh), rows)
            arrays = {name: x for name, x in batch.items() if name not in ("mask", "index")}
            arrays = sharding.to_devices(arrays, run.mesh)
            z, labels = embed(variables, arrays)
            in_flight.append(z)
            if len(in_flight) > _IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())
            if writer:
                writer.put(number * size, z, labels)
            done = min((number + 1) * size, last * block_rows, rows) - max(number * size, first * block_rows)
            bar.advance(done)
    bar.close()


def make_embed(run: parts.Parts, dtype: str, width: float = 1.0, pair: bool = False, mirror: bool = False) -> Any:
    """The jitted `(variables, batch) -> (z, label)`: z (B, D) in `dtype`, of the first side or the other one of pairs,
    or of images and their mirror images, both whole on every device.
    """
    apply = partial(flips.mean_of_both, run.model.apply) if mirror else run.model.apply

    def embed(variables, batch):
        z, out = apply(variables, inputs.model_inputs(batch), train=False, width=width)
        z = out["pair/z"] if pair else z  # what is not asked for is not computed
        return z.astype(dtype), batch["label"]

    return jax.jit(embed, out_shardings=sharding.replicated(run.mesh))


def _batches(run: parts.Parts, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    # Decoding lets other threads run; where there is nothing to decode, more threads only get in each other's way.
    encoded = isinstance(run.train_source.records[0].get("image"), bytes)  # texts have none
    size = run.config.data.eval_batch_size
    return pipeline.eval_batches(
        run.train_source,
        inputs.of(run.config, run.train_source).evaluation,
        batch_size=size,
        start_batch=start,
        stop_batch=stop,
        rows=sharding.rows_of_process(size, run.mesh),
        workers=run.config.data.workers,
        prefetch=8 if encoded or run.config.data.workers else 1,
    )


def _check_rows(batch: dict[str, np.ndarray], index: np.ndarray, rows: int) -> None:
    """Raises ValueError if the batch does not hold the records that their places in the file stand for."""
    if not np.array_equal(batch["index"], np.where(index < rows, index, -1)):
        raise ValueError(f"the batch at row {index[0]} lacks records of the dataset: every row needs its record")


def _runs(needed: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) of neighbouring blocks that are needed."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], needed, [False]]).astype(int)))
    return zip(edges[::2].tolist(), edges[1::2].tolist())
