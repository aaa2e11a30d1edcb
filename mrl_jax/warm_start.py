"""First parameters taken from elsewhere: from another run, one of its checkpoints, or a file of weights."""

import hashlib
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mrl_jax import checkpoints, models, trees, weights, widths
from mrl_jax.step import EVALUATED, State, evaluated


class Source(NamedTuple):
    """Where parameters come from.

    Attributes:
      values: arrays by name, of the parameters and the BatchNorm statistics together.
      identity: what a run records of it: path, step (None for a file) and SHA-256 of the manifest or of the file.
      tokenizer: the SHA-256 of the tokenizer that a run was trained with; None for a file, or a run without texts.
    """

    values: dict[str, np.ndarray]
    identity: dict[str, Any]
    tokenizer: str | None = None


def read(path: str) -> Source:
    """The parameters below `path`: a run's folder (its newest intact checkpoint), one checkpoint, or .safetensors.

    Of a run with a moving average it is the average; its optimizer state is not read.

    Raises:
      FileNotFoundError: if there is nothing of that kind.
      ValueError: if it is damaged.
    """
    place = pathlib.Path(path)
    if place.is_file() and place.suffix == ".safetensors":
        variables, _ = weights.load(place)
        return Source(_flat(variables), {"path": path, "step": None, "sha256": _digest(place)})
    directory, step = place / "checkpoints", None
    if place.name.isdigit() and (place / checkpoints.MANIFEST).is_file():
        directory, step = place.parent, int(place.name)
        if reason := checkpoints.damage(place):
            raise ValueError(f"init.path={path}: the checkpoint is damaged: {reason}; take another one")
    elif place.is_dir():
        step = checkpoints.newest(directory)
    if step is None:
        raise FileNotFoundError(
            f"init.path={path} is neither the folder of a run with a finished checkpoint, nor one of its checkpoints "
            "(RUN/checkpoints/STEP), nor a .safetensors file (made by `python -m mrl_jax.convert`)"
        )
    variables = evaluated(**checkpoints.load_on_host(directory, step, EVALUATED))
    tokenizer = checkpoints.read_run(directory, step).get("tokenizer")  # None in runs of images
    identity = {"path": path, "step": step, "sha256": checkpoints.digest(directory, step)}
    return Source(_flat(variables), identity, tokenizer)


def _flat(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return trees.flatten(variables["params"]) | trees.flatten(variables.get("batch_stats", {}))


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def renamed(source: Source, rule: str) -> Source:
    """The source with other names of its values, for a model that has the same parameters elsewhere.

    Args:
      source: what `read` gave.
      rule: "REGEX=NEW": what the expression finds in a name becomes NEW, as in `re.sub`; "" leaves all as they are.

    Raises:
      ValueError: for a rule of another form, or one that renames nothing, or two values alike.
    """
    if not rule:
        return source
    field = f"init.rename={rule!r}"
    pattern, _, new = rule.rpartition("=")
    if not pattern:
        raise ValueError(f"{field} must be REGEX=NEW, for example '^backbone/=image/'")
    try:
        names = {name: re.sub(pattern, new, name) for name in source.values}
    except (re.error, IndexError) as error:
        raise ValueError(f"{field} is no regular expression and what takes its place: {error}") from error
    some = list(names)[:: max(len(names) // 6, 1)]
    if all(name == old for old, name in names.items()):
        raise ValueError(f"{field} renames no parameter of init.path={source.identity['path']}; some are {some}")
    if len(set(names.values())) < len(names):
        raise ValueError(f"{field} gives several parameters one name: anchor it, for example '^backbone/=image/'")
    return source._replace(values={names[old]: value for old, value in source.values.items()})


def takes_texts(source: Source, skip: str) -> bool:
    """Whether any value of a text encoder is taken over, and with it the tokenizer; `skip` as in `match`."""
    return any(models.reads_texts(name) for name in source.values if not (skip and re.search(skip, name)))


def match(source: Source, abstract_state: State, skip: str) -> dict[str, np.ndarray]:
    """The values that a state takes over, by name, each of the shape and dtype it has there.

    Args:
      source: what `read` gave.
      abstract_state: of the run that begins.
      skip: a regular expression; what it finds starts fresh, or is left out if only the source has it.

    Raises:
      ValueError: listing every parameter that is missing in the source, extra there, or of another shape.
    """
    wanted = trees.flatten(abstract_state.params) | trees.flatten(abstract_state.batch_stats)
    found, problems = {}, []
    for name in sorted({*wanted, *source.values}):
        if (skip and re.search(skip, name)) or name.startswith(f"{widths.STATE}/"):
            continue
        start = None if name in source.values else models.bank(name, source.values, wanted[name].shape)
        if start is not None:
            found[name] = start.astype(wanted[name].dtype)
        elif name not in source.values:
            problems.append(f"{name} is missing")
        elif name not in wanted:
            problems.append(f"{name} is extra")
        else:
            value, to = np.asarray(source.values[name]), wanted[name]
            value = value if value.shape == to.shape else models.fit(name, value, to.shape)
            if value is None:
                problems.append(f"{name} has the shape {source.values[name].shape} instead of {to.shape}")
            else:
                found[name] = value.astype(to.dtype)
    if problems:
        raise ValueError(
            f"init.path={source.identity['path']} does not fit the model: {'; '.join(problems)}. Set init.skip to a "
            "regular expression of what starts fresh or is left out, for example '^head/', and init.rename where only "
            "the names differ, for example '^backbone/=image/'"
        )
    return found


def place(state: State, values: Mapping[str, np.ndarray]) -> State:
    """The state with these values, in the parameters and in the moving average, each where the old one lies."""

    def fill(tree: Any) -> Any:
        return trees.unflatten({name: _put(values.get(name), old) for name, old in trees.flatten(tree).items()})

    ema = {name: fill(tree) for name, tree in state.ema.items()}
    return state._replace(params=fill(state.params), batch_stats=fill(state.batch_stats), ema=ema)


def _put(value: np.ndarray | None, old: jax.Array) -> jax.Array:
    return old if value is None else jax.make_array_from_callback(old.shape, old.sharding, lambda index: value[index])
