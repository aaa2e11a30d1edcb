"""A plan on disk: `plan.json` beside the index that it chose, written last, and only ever used with its gallery."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from mrl_jax import indexes
from mrl_jax.evals import planner, settings
from mrl_jax.evals.gallery import Gallery
from mrl_jax.evals.settings import Setting
from mrl_jax.writers import write_json

PLAN, FORMAT = "plan.json", 1


@dataclasses.dataclass(frozen=True)
class Served:
    """What answers queries by a saved plan.

    Attributes:
      gallery: what is searched.
      setting: how.
      index: its index; None where the setting is the exact search.
      record: the plan as it was written.
    """

    gallery: Gallery
    setting: Setting
    index: indexes.Index | None
    record: dict[str, Any]

    def search(self, queries_QxD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances and rows (Q, k), as `retrieval.adaptive_search` gives them."""
        return planner.run(self.setting, self.index, queries_QxD, self.gallery, k)


def save(found: planner.Plan, gallery: Gallery, path: pathlib.Path) -> None:
    """Writes the index, if the plan has one, and then the plan."""
    path.mkdir(parents=True, exist_ok=True)
    if found.index is not None:
        indexes.save(found.index, path)
    write_json(path / PLAN, to_json(found, gallery))


def load(path: pathlib.Path, gallery: Gallery) -> Served:
    """The plan of a folder and its index, ready to answer.

    Raises:
      FileNotFoundError: where no plan is there.
      ValueError: where it is damaged, or one of another gallery.
    """
    if not (path / PLAN).is_file():
        raise FileNotFoundError(f"{path} holds no {PLAN}: nothing has been planned there")
    try:
        record = json.loads((path / PLAN).read_text(encoding="utf-8"))
        of, setting = record["gallery"], settings.from_json(record["chosen"]["setting"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / PLAN} is not a plan: remove it to plan again, or name another folder") from error
    if of != gallery.fingerprint:
        raise ValueError(
            f"{path} was planned for another gallery (fingerprint {of[:8]}, this one's is {gallery.fingerprint[:8]}): "
            "name the gallery it was built for, or another folder"
        )
    index = None if setting.index == "exact" else indexes.load(path, gallery.fingerprint)
    if index is not None and (index.kind, index.dim) != (setting.index, setting.dim):
        raise ValueError(
            f"{path} holds the index {index.kind}@{index.dim}, its plan asks for {setting.name}: plan again"
        )
    gallery.inverse_norms(*(dim for _, dim in setting.rerank))
    return Served(gallery, setting, index, record)


def to_json(found: planner.Plan, gallery: Gallery) -> dict[str, Any]:
    """The plan as written."""
    return {
        "format": FORMAT,
        "gallery": gallery.fingerprint,
        "rows": gallery.shape[0],
        "dim": gallery.shape[1],
        "target": dataclasses.asdict(found.target),
        "k": found.k,
        "batch": found.batch,
        "exact_ms": found.exact_ms,
        "chosen": dataclasses.asdict(found.chosen),
        "pareto": [dataclasses.asdict(p) for p in planner.pareto(found.points)],
        "measured": [dataclasses.asdict(p) for p in found.points if p.measured],
        "settings_tried": len(found.points),
    }
