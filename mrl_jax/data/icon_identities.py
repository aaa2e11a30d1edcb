"""The icons as a set for open-set retrieval: who is it, drawn by another hand, among concepts never seen in training?

A concept ("camera") is an identity, the maker of a family of fonts is the camera that took the picture: editions and
weights of one maker's fonts are near duplicates, which the rule of re-identification (same identity and same camera
count for nothing) leaves out. Half of the concepts are kept from training, for query and gallery.
"""

import re
from collections.abc import Sequence

import numpy as np

from mrl_jax.data.icons import Arranged, Glyph

LEAST_MAKERS = 3  # that draw a concept, for it to be an identity
RULES = 1  # raised with every change to what is in which split


def maker(family: str) -> str:
    """Who drew a family of fonts: "fontawesome5-solid" and "fontawesome6-regular" are both of "fontawesome"."""
    return re.match(r"[a-z]*", family)[0]


def arrange(drawings: Sequence[Glyph]) -> Arranged:
    """Splits train, query and gallery; records have a camera, the number of their maker in alphabetical order.

    Identities of training are numbered first. Of a concept kept from training every second maker gives one drawing as
    a query; all the others make up the gallery.
    """
    makers = sorted({maker(g.family) for g in drawings})
    by_concept: dict[str, list[Glyph]] = {}
    for glyph in drawings:
        by_concept.setdefault(glyph.concept, []).append(glyph)
    concepts = sorted(c for c, own in by_concept.items() if len({maker(g.family) for g in own}) >= LEAST_MAKERS)
    held = set(np.random.default_rng(0).permutation(concepts)[: len(concepts) // 2].tolist())
    names = tuple(sorted(concepts, key=lambda concept: (concept in held, concept)))
    splits: dict[str, list[dict]] = {"train": [], "query": [], "gallery": []}
    for label, concept in enumerate(names):
        own = by_concept[concept]
        asked = sorted({maker(g.family) for g in own})[label % 2 :: 2] if concept in held else []
        for glyph in own:
            who = maker(glyph.family)
            split = "query" if who in asked else "gallery" if concept in held else "train"
            if split == "query":
                asked.remove(who)
            splits[split].append({"image": glyph.image, "label": label, "camera": makers.index(who)})
    known = {"train": len(concepts) - len(held), "query": len(names), "gallery": len(names)}
    return Arranged(names, splits, {"fields": ["camera"], "cameras": makers, "split_classes": known})
