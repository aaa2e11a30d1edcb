"""Features of the same queries and the same gallery by several models, and what matches what among them."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mrl_jax import feature_pairs, features_dir
from mrl_jax.choices import choose, nearest
from mrl_jax.data import ground_truth
from mrl_jax.evals.matching import Identities, Lists, Matching, pool_templates
from mrl_jax.features_dir import Features

JUNK = "-1"
CAMERA_RULES = ("auto", "on", "off")
DIFFICULTIES = {  # of Revisited Oxford and Paris: the lists of what is relevant, and of what does not count
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


class Sets(NamedTuple):
    """What is to be compared.

    Attributes:
      queries: by model the features (Q, D); D may differ.
      galleries: by model the features (N, D).
      matching: which gallery items are right for which query.
      facts: what is known of them, in words.
      dims: those that every model was trained at; empty where that is not known.
      made_by: by model its checkpoint, where that is known.
    """

    queries: dict[str, np.ndarray]
    galleries: dict[str, np.ndarray]
    matching: Matching
    facts: list[str]
    dims: tuple[int, ...]
    made_by: dict[str, str]


def parse(flag: str, words: Sequence[str]) -> dict[str, str]:
    """["a:DIR", "b:DIR"] as {"a": DIR, "b": DIR}, in order.

    Raises:
      ValueError: for a word without a name, or a name used twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, colon, path = word.partition(":")
        if not (name and colon and path) or name in found:
            why = "the name comes twice" if name in found else "it is not NAME:FEATURES"
            raise ValueError(
                f"{flag}={','.join(words)}: {word!r}: {why}; write old:features/a/query,new:features/b/query"
            )
        found[name] = path
    if not found:
        raise ValueError(f"{flag} names no model: write old:features/a/query,new:features/b/query")
    return found


def open_sets(
    queries: Mapping[str, str],
    galleries: Mapping[str, str],
    *,
    junk: Sequence[str] = (JUNK,),
    camera_rule: str = "auto",
    truth: str = "",
    difficulty: str = "medium",
) -> Sets:
    """Opens and checks features of each model, faces pooled to templates where they have any.

    Args:
      queries: paths by model.
      galleries: paths by model.
      junk: names of identities (numbers, where they have no names) that do not count in the gallery.
      camera_rule: whether an item of the query's identity and camera counts for nothing; "auto": where both have one.
      truth: the file of lists that says what matches, in place of identities.
      difficulty: which of its lists, a key of DIFFICULTIES.

    Raises:
      ValueError, FileNotFoundError: naming what does not fit, and where.
    """
    choose("--camera_rule", camera_rule, CAMERA_RULES)
    choose("--difficulty", difficulty, DIFFICULTIES)
    own, others = _open("--queries", queries), _open("--galleries", galleries)
    made_by = _made_by(own, others)
    first, second = next(iter(own.values())), next(iter(others.values()))
    pooled = [{name: _pooled(found) for name, found in side.items()} for side in (own, others)]
    if truth:
        matching, facts = _lists(truth, difficulty, first, second)
    else:
        ids = [next(iter(side.values()))[1] for side in pooled]
        matching, facts = _identities(first, second, ids, junk, camera_rule)
    known = [set(found.info.dims) for found in (*own.values(), *others.values())]
    dims = tuple(sorted(set.intersection(*known)))
    q, g = ({name: z for name, (z, _) in side.items()} for side in pooled)
    rows = f"{matching.shape[0]} queries, {matching.shape[1]} gallery items"
    return Sets(q, g, matching, [rows, *facts], dims, made_by)


def _made_by(queries: Mapping[str, Features], galleries: Mapping[str, Features]) -> dict[str, str]:
    """The checkpoint of each model; ValueError where one name stands for two of them."""
    found = {name: features_dir.model_of(features.info) for name, features in queries.items()}
    for name, features in galleries.items():
        model = features_dir.model_of(features.info)
        if found.setdefault(name, model) != model and model and found[name]:
            raise ValueError(
                f"{name!r} has queries of {found[name]} and a gallery of {model}: embed both with one model, or give "
                "the two models names of their own"
            )
    return {name: str(model) for name, model in found.items() if model}


def _open(flag: str, paths: Mapping[str, str]) -> dict[str, Features]:
    """The features of each model, of the same rows for all."""
    found = {name: features_dir.open_features(path, verify=True) for name, path in paths.items()}
    first, *_ = found
    for name, features in found.items():
        where = f"{flag}: {name}:{paths[name]}"
        feature_pairs.check_finite(where, features)
        reason = _difference(found[first], features)
        if reason:
            raise ValueError(
                f"{where} and {first}:{paths[first]} differ in their {reason}: embed the same split with every model"
            )
    return found


def _difference(a: Features, b: Features) -> str:
    """In what two sets of rows differ; empty if in nothing."""
    if len(a.z) != len(b.z):
        return f"number of rows ({len(b.z)} and {len(a.z)})"
    data = [f.info.identity["dataset"] if f.info.identity else None for f in (a, b)]
    # The transform may differ: another model may want other images.
    if all(data) and any(data[0][key] != data[1][key] for key in ("split", "sha256_of_three")):
        return f"data (split {data[1]['split']!r} of {data[1]['name']!r}, {data[0]['split']!r} of {data[0]['name']!r})"
    if a.info.label_names and b.info.label_names and a.info.label_names != b.info.label_names:
        return "names of identities"
    if not np.array_equal(a.labels, b.labels):
        return "labels"
    if a.info.fields.keys() != b.info.fields.keys():
        return f"files ({sorted(b.info.fields)} and {sorted(a.info.fields)})"
    wrong = [name for name, values in a.info.fields.items() if not np.array_equal(values, b.info.fields[name])]
    return features_dir.FIELDS[wrong[0]] if wrong else ""


def _pooled(found: Features) -> tuple[np.ndarray, np.ndarray]:
    """The features and labels of what is matched: rows, or templates of rows."""
    fields = found.info.fields
    if "template" not in fields:
        return found.z, np.asarray(found.labels)
    media = fields["media"] if "media" in fields else np.arange(len(found.z))
    z, first = pool_templates(np.asarray(found.z, np.float64), fields["template"], media)
    return z, np.asarray(found.labels)[first]


def _lists(path: str, difficulty: str, queries: Features, gallery: Features) -> tuple[Matching, list[str]]:
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"--ground_truth={path} does not exist: name gnd_roxford5k.pkl or gnd_rparis6k.pkl")
    found = ground_truth.read(pathlib.Path(path))
    if (len(found.queries), len(found.gallery)) != (len(queries.z), len(gallery.z)):
        raise ValueError(
            f"--ground_truth={path} is of {len(found.queries)} queries and {len(found.gallery)} gallery items, the "
            f"features of {len(queries.z)} and {len(gallery.z)}: embed the set that it belongs to"
        )
    relevant, ignored = (
        [np.concatenate(rows) for rows in zip(*(getattr(found, name) for name in names))]
        for names in DIFFICULTIES[difficulty]
    )
    return Lists(relevant, ignored, len(found.gallery)), [f"lists of {path}, {difficulty}"]


def _identities(
    queries: Features, gallery: Features, ids: list[np.ndarray], junk: Sequence[str], camera_rule: str
) -> tuple[Matching, list[str]]:
    names = [found.info.label_names for found in (queries, gallery)]
    if bool(names[0]) != bool(names[1]):
        raise ValueError("--queries and --galleries: one has names of identities, the other numbers alone")
    if names[0] and names[0] != names[1]:
        number = {name: i for i, name in enumerate(dict.fromkeys((*names[0], *names[1])))}
        ids = [
            np.where(own >= 0, np.array([number[n] for n in own_names])[own], -1) for own, own_names in zip(ids, names)
        ]
        names = [tuple(number), tuple(number)]
    is_junk = np.isin(ids[1], _junk(junk, names[0])) if ids[1].ndim == 1 else None
    # A template is of many pictures: it has no camera.
    cameras = [None if "template" in f.info.fields else f.info.fields.get("camera", None) for f in (queries, gallery)]
    if camera_rule == "on" and any(camera is None for camera in cameras):
        raise ValueError("--camera_rule=on: queries and galleries need cameras.npy; prepare them with cameras, or off")
    ruled = camera_rule != "off" and all(camera is not None for camera in cameras)
    facts = [f"{len(np.unique(ids[0]))} identities asked for"]
    if ruled:
        facts.append(f"{len(np.unique(np.concatenate(cameras)))} cameras, same identity and camera left out")
    if is_junk is not None and is_junk.any():
        facts.append(f"{is_junk.sum()} junk items left out")
    return Identities(*ids, *(cameras if ruled else (None, None)), is_junk), facts


def _junk(junk: Sequence[str], names: Sequence[str] | None) -> list[int]:
    """The numbers of junk identities; the usual -1 need not be there."""
    wrong = [n for n in junk if n != JUNK and (n not in names if names else not n.removeprefix("-").isdecimal())]
    if wrong:
        what = f"is not the name of an identity{nearest(wrong[0], names)}" if names else "is not a number"
        raise ValueError(f"--junk={','.join(junk)}: {wrong[0]!r} {what}")
    return [names.index(name) for name in junk if name in names] if names else [int(name) for name in junk]
