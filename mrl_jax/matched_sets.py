"""Features of the same queries and the same gallery by several models, and what matches what among them."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mrl_jax import feature_pairs, features_dir
from mrl_jax.choices import choose, nearest
from mrl_jax.data import ground_truth
from mrl_jax.evals.matching import Identities, Lists, Matching, Pairs, pool_templates
from mrl_jax.features_dir import Features

JUNK = "-1"
CAMERA_RULES = ("auto", "on", "off")
DIFFICULTIES = {  # of Revisited Oxford and Paris: the lists of what is relevant, and of what does not count
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


class Pooled(NamedTuple):
    """What is matched, rows or templates of rows: features (N, D), labels (N,), and the number that each goes by."""

    z: np.ndarray
    labels: np.ndarray
    numbers: np.ndarray


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
    pairs: str = "",
    max_queries: int = 0,
) -> Sets:
    """Opens and checks features of each model, faces pooled to templates where they have any.

    Args:
      queries: paths by model; "A+B" is the rows of A, then those of B.
      galleries: paths by model.
      junk: names of identities (numbers, where they have no names) that do not count in the gallery.
      camera_rule: whether an item of the query's identity and camera counts for nothing; "auto": where both have one.
      truth: the file of lists that says what matches, in place of identities.
      difficulty: which of its lists, a key of DIFFICULTIES.
      pairs: the file of the pairs that are compared, in place of identities: lines of GALLERY QUERY SAME, numbers of
        templates, or of rows where there are none.
      max_queries: the most that are asked, a sample of them, the same at every call; 0: all.

    Raises:
      ValueError, FileNotFoundError: naming what does not fit, and where.
    """
    if max_queries < 0:
        raise ValueError(f"--max_queries={max_queries} must be at least 1, or 0 for all")
    choose("--camera_rule", camera_rule, CAMERA_RULES)
    choose("--difficulty", difficulty, DIFFICULTIES)
    own, others = _open("--queries", queries), _open("--galleries", galleries)
    made_by = _made_by(own, others)
    first, second = next(iter(own.values())), next(iter(others.values()))
    pooled = [{name: _pooled(found) for name, found in side.items()} for side in (own, others)]
    matched = [next(iter(side.values())) for side in pooled]
    if truth:
        matching, facts = _lists(truth, difficulty, first, second)
    elif pairs:
        matching, facts = _pairs(pathlib.Path(pairs), *(side.numbers for side in matched))
    else:
        matching, facts = _identities(first, second, [side.labels for side in matched], junk, camera_rule)
    known = [set(features_dir.trained_dims(found.info)) for found in (*own.values(), *others.values())]
    dims = tuple(sorted(set.intersection(*known)))
    q, g = ({name: found.z for name, found in side.items()} for side in pooled)
    rows = f"{matching.shape[0]} queries, {matching.shape[1]} gallery items"
    sets = Sets(q, g, matching, [rows, *facts], dims, made_by)
    return _sample(sets, max_queries) if 0 < max_queries < matching.shape[0] else sets


def _sample(sets: Sets, count: int) -> Sets:
    """Some of the queries, by chance of seed 0."""
    rows = np.sort(np.random.default_rng(0).choice(sets.matching.shape[0], count, replace=False))
    queries = {name: z[rows] for name, z in sets.queries.items()}
    facts = [*sets.facts, f"a sample of {count} of the queries"]
    return sets._replace(queries=queries, matching=sets.matching.take(rows), facts=facts)


def _made_by(queries: Mapping[str, Features], galleries: Mapping[str, Features]) -> dict[str, str]:
    """The checkpoint of each model; ValueError where one name stands for two of them."""
    found = {name: features_dir.model_of(features.info.identity) for name, features in queries.items()}
    for name, features in galleries.items():
        model = features_dir.model_of(features.info.identity)
        if found.setdefault(name, model) != model and model and found[name]:
            raise ValueError(
                f"{name!r} has queries of {found[name]} and a gallery of {model}: embed both with one model, or give "
                "the two models names of their own"
            )
    return {name: str(model) for name, model in found.items() if model}


def _open(flag: str, paths: Mapping[str, str]) -> dict[str, Features]:
    """The features of each model, of the same rows for all."""
    found = {
        name: [features_dir.open_features(part, verify=True) for part in _folders(path)] for name, path in paths.items()
    }
    first, *_ = found
    for name, parts in found.items():
        where = f"{flag}: {name}:{paths[name]}"
        for part in parts:
            feature_pairs.check_finite(where, part)
        reasons = [f"number of folders ({len(parts)} and {len(found[first])})"]
        if len(parts) == len(found[first]):
            reasons = list(filter(None, map(_difference, found[first], parts)))
        if reasons:
            raise ValueError(
                f"{where} and {first}:{paths[first]} differ in their {reasons[0]}: embed the same split with every "
                "model"
            )
    return {name: _joined(f"{flag}: {name}:{paths[name]}", parts) for name, parts in found.items()}


def _folders(path: str) -> list[str]:
    return [path] if pathlib.Path(path).exists() else path.split("+")


def _joined(where: str, parts: Sequence[Features]) -> Features:
    """The rows of several splits by one model, one after the other."""
    first, *others = parts
    for other in others:
        different = {
            "model": features_dir.model_of(other.info.identity) != features_dir.model_of(first.info.identity),
            "size": other.z.shape[1] != first.z.shape[1],
            "names of identities": other.info.label_names != first.info.label_names,
            "files": other.info.fields.keys() != first.info.fields.keys(),
        }
        if any(different.values()):
            what = next(name for name, differ in different.items() if differ)
            raise ValueError(
                f"{where}: its folders differ in their {what}: join splits of one set, embedded by one model"
            )
    if not others:
        return first
    fields = {name: np.concatenate([part.info.fields[name] for part in parts]) for name in first.info.fields}
    z, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("z", "labels"))
    return Features(z, labels, dataclasses.replace(first.info, fields=fields))


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


def _pooled(found: Features) -> Pooled:
    fields = found.info.fields
    if "template" not in fields:
        return Pooled(found.z, np.asarray(found.labels), np.arange(len(found.z)))
    media = fields["media"] if "media" in fields else np.arange(len(found.z))
    z, first = pool_templates(np.asarray(found.z, np.float64), fields["template"], media)
    return Pooled(z, np.asarray(found.labels)[first], fields["template"][first])


def _pairs(path: pathlib.Path, query_numbers: np.ndarray, gallery_numbers: np.ndarray) -> tuple[Matching, list[str]]:
    """The pairs of a file, its numbers as rows."""
    if not path.is_file():
        raise FileNotFoundError(f"--pairs={path} does not exist: name a file of lines GALLERY QUERY SAME")
    listed = ground_truth.read_pairs(path)
    rows = []
    for flag, numbers, asked in (
        ("--galleries", gallery_numbers, listed[:, 0]),
        ("--queries", query_numbers, listed[:, 1]),
    ):
        order = np.argsort(numbers)
        at = order[np.minimum(np.searchsorted(numbers, asked, sorter=order), len(order) - 1)]
        if (unknown := numbers[at] != asked).any():
            raise ValueError(
                f"--pairs={path} names {asked[unknown.argmax()]}, which is none of {len(numbers)} of {flag}: a line is "
                "GALLERY QUERY SAME; join the folders of all that it names with +"
            )
        rows.append(at)
    same = listed[:, 2] == 1
    facts = [f"{len(same)} pairs of {path}, {same.sum()} of them of one identity"]
    own, others = (_by_query(rows[1][chosen], rows[0][chosen], len(query_numbers)) for chosen in (same, ~same))
    return Pairs(own, others, len(gallery_numbers)), facts


def _by_query(query_P: np.ndarray, gallery_P: np.ndarray, queries: int) -> list[np.ndarray]:
    """The gallery rows of each query."""
    order = np.argsort(query_P, kind="stable")
    return np.split(gallery_P[order], np.searchsorted(query_P[order], np.arange(1, queries)))


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
