"""Which of a paper's models a run is, told by its config alone."""

from collections.abc import Callable, Mapping
from typing import Any

from mrl_jax import models

Config = Mapping[str, Any]


def _plain(config: Config, head: str) -> bool:
    return config["head"] == head and not _finetuned(config) and not _several(config)


def _several(config: Config) -> bool:
    """Whether the run has several widths, which only image backbones have."""
    return "widths" in config["model"] and bool(config["model"]["widths"])


def _finetuned(config: Config) -> bool:
    return bool(config["init"]["path"] or config["optim"]["freeze"])


def full_dim(config: Config) -> int:
    """The features that the run's backbone, or its image tower, has, of which FF-k uses the first k."""
    return models.embed_dim(config["model"].get("image", config["model"]))


def _full(config: Config) -> bool:
    """Whether the only dim is the full one."""
    return _plain(config, "ff") and _first(config) == full_dim(config)


def _pairs(config: Config) -> bool:
    """Whether the model is of images and texts."""
    return config["model"]["name"] == "dual_encoder"


def _halving(config: Config) -> bool:
    dims = config["nesting"]["dims"]
    return len(dims) > 1 and all(2 * a == b for a, b in zip(dims, dims[1:]))


def _first(config: Config) -> int:
    return config["nesting"]["dims"][0]


def _weights(config: Config) -> tuple[float, ...]:
    return tuple(config["nesting"]["weights"]) or (1.0,) * len(config["nesting"]["dims"])


def _boosted(*first: float) -> Callable[[Config], bool]:
    def fits(config: Config) -> bool:
        weights = _weights(config)
        rest = len(weights) - len(first)
        return _plain(config, "mrl") and rest > 0 and weights == (*first, *(1.0,) * rest)

    return fits


def _smallest(dim: int) -> Callable[[Config], bool]:
    def fits(config: Config) -> bool:
        return _plain(config, "mrl") and _first(config) == dim

    return fits


def _uniform(config: Config) -> bool:
    dims = config["nesting"]["dims"]
    steps = {b - a for a, b in zip(dims, dims[1:])}
    return _plain(config, "mrl") and len(dims) > 2 and len(steps) == 1


def _tuned(pattern: str) -> Callable[[Config], bool]:
    """New heads on a trained model, of which the parameters of `pattern` were left as they were."""
    return lambda config: config["head"] == "mrl" and config["optim"]["freeze"] == pattern


RUNS: dict[str, Callable[[Config], bool]] = {
    "mrl": lambda c: _plain(c, "mrl"),
    "mrl_e": lambda c: _plain(c, "mrl_e"),
    "slimmable": lambda c: _several(c) and c["model"]["embedding"] == "scaled" and c["head"] == "mrl_e",
    "ff": lambda c: _plain(c, "ff"),
    "ff_full": lambda c: c["model"]["name"] in models.BACKBONES and _full(c),
    "pairs": lambda c: _pairs(c) and _plain(c, "none"),
    "pairs_ff_full": lambda c: _pairs(c) and _full(c),
    "equal": lambda c: _plain(c, "mrl") and _halving(c) and len(set(_weights(c))) == 1 and _first(c) >= 8,
    "8boost": _boosted(2.0),
    "8+16boost": _boosted(2.0, 1.5),
    "uniform": _uniform,
    "smallest=4": _smallest(4),
    "smallest=6": _smallest(6),
    "fc": _tuned(r"^backbone/"),
    "conv3": _tuned(r"^backbone/(?!layer4_2/conv3/)"),
    "conv2": _tuned(r"^backbone/(?!layer4_2/conv[23]/)"),
    "block": _tuned(r"^backbone/(?!layer4_2/)"),
}
