"""Weights of other programs into a file that training can start from, and ours out again. Runs no code of the file.

python -m mrl_jax.convert --src=r50_mrl1_e0_ff2048.pt --dst=mrl.safetensors        # RAIVNLab/MRL, torchvision
python -m mrl_jax.convert --src=r50_mrl0_e1_ff2048.pt --dst=mrl_e.safetensors --head=mrl_e
python -m mrl_jax.convert --src=vit-base-patch16-224/ --dst=vit.safetensors        # Hugging Face: file or folder
python -m mrl_jax.convert --src=bert-base-uncased/ --dst=bert.safetensors          # likewise
python -m mrl_jax.convert --src=B_16.npz --dst=vit.safetensors                     # big_vision, AugReg
python -m mrl_jax.convert --src=runs/q --dst=q.safetensors                         # the newest checkpoint of a run
python -m mrl_jax.convert --src=runs/r50 --dst=r50.pt                              # under torchvision's names
"""

import hashlib
import json
import math
import os
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags

from mrl_jax import checkpoints, commands, trees, weights
from mrl_jax import config as configs
from mrl_jax.choices import choose
from mrl_jax.conversion import FORMATS, classifiers, runs, sources, torch_resnet, torch_writer
from mrl_jax.conversion.request import Converted, Request

SUFFIXES = (".safetensors", ".pt")
# By the model's name: a config to train it with, and the options that the weights are of no use without.
EXAMPLES = {
    "bert": ("configs/text_pairs.py", ("variant", "positions", "norm_eps", "gelu")),
    "resnet": ("configs/imagenet_resnet50.py", ("variant", "stem", "base_width", "blurpool")),
    "vit": ("configs/imagenet_vit_b16.py", ("variant", "posemb", "pool", "norm_eps", "gelu")),
}
LAYOUTS = {
    "ours": "this project's weights file",
    "torchvision": "torchvision's names; nested heads as the MRL code stores them today",
    "released": "torchvision's names; a tied head as `fc`, as in the released MRL-E weights",
}


def convert(src: pathlib.Path, dst: pathlib.Path, request: Request, *, name: str, layout: str, step: int | None) -> str:
    """Reads `src`, writes `dst`, and returns what was done in words.

    Args:
      src: a file of weights, a folder that holds one, or that of a run.
      dst: does not exist yet; `.safetensors`, or `.pt` for the layouts of torch.
      request: what the source cannot tell.
      name: of FORMATS, or "" to tell it from the tensors.
      layout: of LAYOUTS.
      step: of a run; None for the newest intact checkpoint.

    Raises:
      FileNotFoundError, FileExistsError, ValueError: naming the file, what is wrong with it and the remedy.
    """
    _check_destination(dst, layout)
    origin, (kind, converted) = _read(src, request, name, step)
    about = converted.about | {"source": origin}
    if layout == "ours":
        weights.save(dst, converted.variables, about)
    else:
        state = torch_resnet.write(converted.variables, about, released=layout == "released")
        if dst.suffix == ".pt":
            torch_writer.write(dst, state)
        else:
            weights.write_tensors(dst, state, {"format": "pt", "about": json.dumps(about)})
    notes = [f"Note: {note}." for note in converted.notes]
    return "\n".join([f"Read {src} as {kind}: {_describe(converted)}", *notes, _farewell(dst, about, layout)])


def _check_destination(dst: pathlib.Path, layout: str) -> None:
    choose("--to", layout, LAYOUTS)
    if dst.suffix not in SUFFIXES:
        raise ValueError(f"--dst={dst}: its name must end in one of {', '.join(SUFFIXES)}")
    if dst.suffix == ".pt" and layout == "ours":
        raise ValueError(f"--dst={dst}: our weights files are .safetensors; for a .pt file give --to=torchvision")
    if os.path.lexists(dst):
        raise FileExistsError(f"--dst={dst} exists and is left as it is: remove it or choose another name")
    if not dst.parent.is_dir():
        raise FileNotFoundError(f"--dst={dst}: {dst.parent} is not a folder; make it first")


def _read(
    src: pathlib.Path, request: Request, name: str, step: int | None
) -> tuple[dict[str, Any], tuple[str, Converted]]:
    """Where the weights come from, the name of their format, and the weights."""
    if (src / "checkpoints").is_dir():
        _refuse_options(src, request, name)
        step = _step(src, step)
        return {"file": src.name, "format": "run", "step": step}, (f"a run, step {step}", runs.read(src, step))
    path = sources.locate(src)
    if step is not None:
        raise ValueError(f"--step={step}: {src} is not the folder of a run; leave --step out")
    origin = {"file": path.name, "sha256": _digest(path)}
    if sources.is_safetensors(path) and weights.is_ours(path):
        _refuse_options(src, request, name)
        variables, about = weights.load(path)
        earlier = about.pop("source")
        return earlier, ("our weights", Converted(variables, about))
    kind, converted = sources.convert(sources.open_file(path), name, request)
    return origin | {"format": kind}, (kind, converted)


def _refuse_options(src: pathlib.Path, request: Request, name: str) -> None:
    if request != Request() or name:
        raise ValueError(f"{src} describes itself: leave --format, --head, --dims, --mean and --std out")


def _step(src: pathlib.Path, step: int | None) -> int:
    directory = src / "checkpoints"
    if step is None:
        step = checkpoints.newest(directory)
        if step is None:
            raise FileNotFoundError(f"{directory} holds no finished checkpoint: train longer, or name another run")
    elif step not in checkpoints.steps(directory):
        raise FileNotFoundError(f"--step={step} is not in {directory}, which holds {checkpoints.steps(directory)}")
    elif damage := checkpoints.damage(directory / str(step)):
        raise ValueError(f"--step={step} is damaged: {damage}; leave --step out for the newest intact one")
    return step


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _describe(converted: Converted) -> str:
    about = converted.about
    model = about["model"]
    usual = {"name": model["name"], "variant": model["variant"]} | configs.LATER.get(model["name"], {})
    told = {k: v for k, v in model.items() if v not in (False, 0.0) and (k not in usual or v != usual[k])}
    options = ", ".join(f"{k} {v}" for k, v in told.items())
    dims = (
        "" if about["head"] == "none" else f" of dims {tuple(about['nesting']['dims'])}, {about['num_classes']} classes"
    )
    size = sum(math.prod(np.shape(value)) for value in trees.flatten(converted.variables["params"]).values())
    return f"{model['name']} {model['variant']} ({options}), head {about['head']}{dims}, {size:,} parameters"


def _farewell(dst: pathlib.Path, about: Mapping[str, Any], layout: str) -> str:
    wrote = f"Wrote {dst}: {LAYOUTS[layout]}, {dst.stat().st_size / 1e6:.1f} MB"
    if layout != "ours":
        load = "torch.load({0!r}, weights_only=True)" if dst.suffix == ".pt" else "safetensors.torch.load_file({0!r})"
        return f"{wrote}\nNext, in torch: model.load_state_dict({load.format(str(dst))})"
    config, options = EXAMPLES[about["model"]["name"]]
    fields = {f"model.{option}": about["model"][option] for option in options}
    if about["mean"]:
        fields |= {"data.mean": tuple(about["mean"]), "data.std": tuple(about["std"])}
    fields["init.path"] = dst
    if about["head"] == "none":
        fields["init.skip"] = "^head/" if about["mean"] else "^temperature/"
    words = [f"--config={config}", *(f"--config.{field}={value}" for field, value in fields.items())]
    return f"{wrote}\nNext: {shlex.join(['python', '-m', 'mrl_jax.train', *words, '--workdir=runs/NEW'])}"


def _numbers(flag: str, words: list[str], kind: type) -> tuple:
    try:
        return tuple(kind(word) for word in words)
    except ValueError as error:
        raise ValueError(f"--{flag}={','.join(words)}: give numbers separated by commas") from error


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    options = flags.FLAGS
    request = Request(
        head=options.head,
        dims=_numbers("dims", options.dims, int),
        mean=_numbers("mean", options.mean, float),
        std=_numbers("std", options.std, float),
    )
    src, dst = pathlib.Path(options.src), pathlib.Path(options.dst)
    layout = options.to or ("torchvision" if dst.suffix == ".pt" else "ours")
    print(convert(src, dst, request, name=options.format, layout=layout, step=options.step))


if __name__ == "__main__":
    flags.DEFINE_string("src", None, "A file of weights, a folder that holds one, or the folder of a run.")
    flags.DEFINE_string("dst", None, "The file to write, .safetensors or .pt; it must not exist.")
    flags.DEFINE_enum("to", "", ["", *LAYOUTS], "; ".join(f"{k}: {v}" for k, v in LAYOUTS.items()) + ". By the suffix.")
    flags.DEFINE_enum("format", "", ["", *FORMATS], "What --src holds; by default told by the names of its tensors.")
    flags.DEFINE_enum(
        "head", "", list(classifiers.REQUESTS), "The head, where the tensors do not tell; none leaves it out."
    )
    flags.DEFINE_list("dims", [], "The nested dims of a tied head, which its tensors do not tell.")
    flags.DEFINE_list(
        "mean", [], "Per channel, of pixels in 0..1, as the weights expect; by default as is usual there."
    )
    flags.DEFINE_list("std", [], "Likewise.")
    flags.DEFINE_integer("step", None, "Of a run: which checkpoint; by default the newest intact one.")
    flags.mark_flags_as_required(["src", "dst"])
    commands.run(main)
