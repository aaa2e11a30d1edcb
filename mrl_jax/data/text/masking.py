"""Masked language modelling: which pieces of a text are to be guessed, and what stands in their place (BERT, 3.1)."""

import math
from typing import NamedTuple

import numpy as np

from mrl_jax.data.text.vocabulary import Vocabulary

MASKED, RANDOM = 0.8, 0.1  # shares of the chosen pieces; the others stay as they are


class Masked(NamedTuple):
    """A text with gaps.

    Attributes:
      tokens_T: the ids that the model sees.
      positions_S: where the chosen pieces stand, in order; 0 in slots that are not used.
      targets_S: what stood there; -1 in slots that are not used.
    """

    tokens_T: np.ndarray
    positions_S: np.ndarray
    targets_S: np.ndarray


def slots(rate: float, context: int) -> int:
    """How many pieces at most are chosen of a text of `context` ids."""
    return math.ceil(rate * context)


def mask(
    tokens_T: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary, *, rate: float, whole_word: bool
) -> Masked:
    """Chooses `rate` of the pieces: of them 80 % become [MASK], 10 % a random piece, 10 % stay.

    A share that is no whole number is rounded up as often as makes it right on average: of a few pieces at times none.

    Args:
      tokens_T: int32 ids, filled up with [PAD]; special ids are never chosen.
      rng: of this example at this step.
      vocabulary: of the ids.
      rate: the share of the pieces.
      whole_word: words are chosen, with all their pieces; one that no longer fits into the share is passed over.
    """
    count = slots(rate, len(tokens_T))
    candidates = np.flatnonzero(~vocabulary.special[tokens_T])
    wanted = min(math.floor(rate * len(candidates) + rng.random()), count)
    if whole_word:
        chosen = _words(tokens_T, candidates, rng, vocabulary, wanted)
    else:
        chosen = rng.permutation(candidates)[:wanted]
    chosen = np.sort(chosen)
    draw = rng.random(len(chosen))
    other = rng.choice(np.flatnonzero(~vocabulary.special), len(chosen)).astype(np.int32)
    shown = np.where(draw < MASKED, vocabulary.mask, np.where(draw < MASKED + RANDOM, other, tokens_T[chosen]))
    positions, targets = np.zeros(count, np.int32), np.full(count, -1, np.int32)
    positions[: len(chosen)], targets[: len(chosen)] = chosen, tokens_T[chosen]
    tokens_T = tokens_T.copy()
    tokens_T[chosen] = shown
    return Masked(tokens_T, positions, targets)


def _words(tokens_T, candidates, rng, vocabulary, wanted):
    """Positions of words drawn at random, at most `wanted` of them."""
    begins = ~vocabulary.continues[tokens_T[candidates]]
    if len(begins):
        begins[0] = True
        begins[1:] |= np.diff(candidates) > 1
    words = np.split(candidates, np.flatnonzero(begins)[1:])
    chosen, room = [], wanted
    for i in rng.permutation(len(words)):
        if len(words[i]) <= room:
            chosen.append(words[i])
            room -= len(words[i])
        if not room:
            break
    return np.concatenate([np.empty(0, np.int64), *chosen])
