"""A sub-model of one width and dim alone, for a device: a folder that every command takes, weights, and StableHLO.

python -m mrl_jax.export --workdir=runs/sfsc --width=0.25 --dim=64 --out=exports/phone
python -m mrl_jax.export --workdir=runs/q --dim=16 --out=exports/q16               # one width: its head and prefix cut

OUT holds checkpoints/ (embed, evaluate, convert and --config.init.path take the folder as that of a run), the weights
as model.safetensors, and a function from uint8 images (B, H, W, C) to {"embedding": (B, dim), "logits": (B, classes)},
float32, its weights within. model.jax_export is for `jax.export.deserialize(bytes).call(images)` in a JAX that has
nothing else of this project, on CPU, GPU or TPU and of any B. model.stablehlo is for other runtimes: portable StableHLO
bytecode lowered for a CPU, whose main takes --batch images and returns the embedding, then the logits. What the
sub-model computes is compared with the whole model on random images before anything is kept. costs.json and the printed
table have operations, parameters, latency and accuracy of every (width, dim) of the run.
"""

import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from mrl_jax import checkpoints, commands, costs, narrow, trained, weights, writers
from mrl_jax.step import variables_of

CHECKED_ROWS = 8
TOLERANCE = 1e-4  # of the largest value
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export(
    path: pathlib.Path, step: int, width: float, dim: int, out: pathlib.Path, rows: int, recalibrate: int = 0
) -> str:
    """Writes the sub-model to `out`, which does not exist yet, in one rename; the table of costs in words.

    Args:
      path: the run's folder.
      step: of its checkpoint.
      width: of those trained.
      dim: of the embedding, 1 to that width's, and with independent heads a trained one; 0 for all of it.
      out: the folder to make.
      rows: images at once, of model.stablehlo and for the latency.
      recalibrate: so many training batches that BatchNorm's statistics are computed anew from first; 0: as they are.

    Raises:
      ValueError: for a width that was not trained, a dim that it or its head does not have, or no statistics to
        recalibrate.
      FileExistsError: where `out` exists.
      RuntimeError: if the sub-model does not compute what the whole one does.
    """
    if os.path.lexists(out):
        raise FileExistsError(f"--out={out} exists and is left as it is: remove it or choose another name")
    config = trained.config_of(path, step)
    if config.data.kind != "image":
        raise ValueError(f"--workdir={path} is a model of data.kind={config.data.kind!r}: only those of images are cut")
    if "widths" not in config.model or config.head == "none":
        raise ValueError(
            f"--workdir={path}: model.name={config.model.name!r} with head={config.head!r} has no width and head to "
            "cut out: export a classifier's run, or a student's weights with `python -m mrl_jax.convert`"
        )
    run = trained.assemble(path, step, config)
    trained.check_width(run, width)
    trained.check_recalibrated(run, recalibrate)
    nesting = run.model.nestings[width]
    dim = narrow.check_dim(dim or nesting.full, nesting, config.head)
    variables = jax.device_get(trained.recalibrated(run, trained.variables(path, step, run), recalibrate))
    alone = trained.assemble(path, step, narrow.config_of(config, width, dim))
    state = narrow.state_of(alone, narrow.variables_of(run, variables, width, dim))
    compared = narrow.largest_difference(run, variables, alone, variables_of(state), width, dim, CHECKED_ROWS)
    if compared > TOLERANCE:
        raise RuntimeError(f"the sub-model differs from the whole one by {compared:.1e} of the largest value")
    table = costs.measure(run, variables, rows, costs.accuracies(path, step, recalibrate))
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir(parents=True)
        origin = {"path": str(path), "width": width, "dims": list(nesting.dims)}
        origin |= trained.identity(path, step) | ({"recalibrated": recalibrate} if recalibrate else {})
        _write(unfinished, path, step, alone, state, origin)
        _write_functions(unfinished, alone, jax.device_get(variables_of(state)), rows)
        writers.write_json(unfinished / "costs.json", costs.record(table, rows))
        os.replace(unfinished, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return (
        f"{costs.show(table, rows, (width, dim))}\nEqual to the whole model's to {compared:.0e} of the largest value."
    )


def _write(out: pathlib.Path, path: pathlib.Path, step: int, alone, state, origin: dict[str, Any]) -> None:
    record = checkpoints.read_run(path / "checkpoints", step)
    writers.write_json(out / "config.json", narrow.record_of(alone, record, origin)["config"])
    saver = checkpoints.Checkpoints(out / "checkpoints", keep=2, keep_period=0)
    saver.save(step, state._replace(step=state.step + step), narrow.record_of(alone, record, origin))
    saver.close()
    variables = jax.device_get(variables_of(state))
    weights.save(out / "model.safetensors", variables, narrow.about(alone, record, variables, origin))


def _write_functions(out: pathlib.Path, alone, variables, rows: int) -> None:
    """The function with its weights within, for JAX and for other runtimes."""
    call = jax.jit(lambda images: narrow.outputs(alone, variables, images, 1.0, alone.nesting.full))

    def exported(batch: Any, platforms: Sequence[str]) -> jax.export.Exported:
        shape = (batch, *alone.image_shape)
        return jax.export.export(call, platforms=platforms)(jax.ShapeDtypeStruct(shape, np.uint8))

    (out / "model.jax_export").write_bytes(exported(*jax.export.symbolic_shape("B"), PLATFORMS).serialize())
    # Several platforms would be one more argument, and an open number of images a check that only JAX knows.
    (out / "model.stablehlo").write_bytes(exported(rows, PLATFORMS[:1]).mlir_module_serialized)


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    options = flags.FLAGS
    path, out = pathlib.Path(options.workdir), pathlib.Path(options.out)
    if options.batch < 1:
        raise ValueError(f"--batch={options.batch} must be at least 1")
    step = trained.choose_step(path, options.step)
    print(export(path, step, options.width, options.dim, out, options.batch, options.recalibrate))
    print(f"Wrote {out}: checkpoints/, model.safetensors, model.jax_export, model.stablehlo, costs.json")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The folder of a trained run.")
    flags.DEFINE_integer("step", None, "Which checkpoint; by default the newest intact one.")
    flags.DEFINE_float("width", 1.0, "Of those that the run trained.")
    flags.DEFINE_integer("dim", 0, "Features of the embedding, with head=mrl of a trained dim; by default all.")
    flags.DEFINE_integer("recalibrate", 0, "Compute BatchNorm's statistics anew from so many training batches first.")
    flags.DEFINE_string("out", None, "The folder to make; it must not exist.")
    flags.DEFINE_integer("batch", 1, "Images at once: of model.stablehlo, and for the latency.")
    flags.mark_flags_as_required(["workdir", "out"])
    commands.run(main)
