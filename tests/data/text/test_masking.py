"""Which pieces are masked: shares, words, and that the same draw gives the same gaps."""

import math

import numpy as np
import pytest
import text

from mrl_jax.data.text import masking, vocabulary

LENGTH, ROWS = 128, 400


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return vocabulary.read(text.trained(tmp_path_factory.mktemp("t") / "tokenizer.json"))


def rows(own, continued=0.4):
    """Made-up texts of random pieces, [CLS] first, [SEP] and some [PAD] last."""
    rng = np.random.default_rng(0)
    pieces = [np.flatnonzero(~own.special & (own.continues == kind)) for kind in (False, True)]
    for _ in range(ROWS):
        kinds = rng.random(LENGTH) < continued
        tokens = np.where(kinds, rng.choice(pieces[1], LENGTH), rng.choice(pieces[0], LENGTH)).astype(np.int32)
        tokens[0], tokens[-9], tokens[-8:] = own.cls, own.sep, own.pad
        yield tokens


@pytest.mark.parametrize("whole_word", [False, True])
def test_shares_are_15_percent_and_80_10_10(own, whole_word):
    seen, chosen, kinds = 0, 0, np.zeros(3)
    for i, tokens in enumerate(rows(own)):
        found = masking.mask(tokens, np.random.default_rng(i), own, rate=0.15, whole_word=whole_word)
        used = found.targets_S >= 0
        at, was = found.positions_S[used], found.targets_S[used]
        np.testing.assert_array_equal(tokens[at], was)
        assert not own.special[was].any()
        assert (np.diff(at) > 0).all()
        untouched = np.delete(np.arange(LENGTH), at)
        np.testing.assert_array_equal(found.tokens_T[untouched], tokens[untouched])
        assert not own.special[found.tokens_T[at][found.tokens_T[at] != own.mask]].any()
        seen, chosen = seen + (~own.special[tokens]).sum(), chosen + used.sum()
        now = found.tokens_T[at]
        kinds += [(now == own.mask).sum(), ((now != own.mask) & (now != was)).sum(), (now == was).sum()]
    assert abs(chosen / seen - 0.15) < 0.005
    # A random piece is the one that stood there once in a while.
    same = 0.1 / (~own.special).sum()
    np.testing.assert_allclose(kinds / chosen, [0.8, 0.1 - same, 0.1 + same], atol=0.015)


@pytest.mark.parametrize("pieces", [1, 3, 24])
def test_the_share_is_right_on_average_however_short_the_text(own, pieces):
    some = np.flatnonzero(~own.special & ~own.continues)[:pieces].astype(np.int32)
    tokens = np.concatenate([[own.cls], np.resize(some, pieces), [own.sep], [own.pad] * 4]).astype(np.int32)
    found = [masking.mask(tokens, np.random.default_rng(i), own, rate=0.15, whole_word=False) for i in range(4000)]
    counts = np.array([(one.targets_S >= 0).sum() for one in found])
    assert abs(counts.mean() / pieces - 0.15) < 0.02
    assert set(counts) == {math.floor(0.15 * pieces), math.floor(0.15 * pieces) + 1}


def test_words_are_masked_whole(own):
    for i, tokens in enumerate(rows(own)):
        found = masking.mask(tokens, np.random.default_rng(i), own, rate=0.15, whole_word=True)
        chosen = np.zeros(LENGTH, bool)
        chosen[found.positions_S[found.targets_S >= 0]] = True
        inside = own.continues[tokens[1:]] & ~own.special[tokens[:-1]]
        assert (chosen[1:] == chosen[:-1])[inside].all()


def test_the_same_generator_gives_the_same_gaps_and_another_others(own):
    tokens = next(rows(own))
    one, same, other = (
        masking.mask(tokens, np.random.default_rng(seed), own, rate=0.15, whole_word=False) for seed in (1, 1, 2)
    )
    for a, b in zip(one, same):
        np.testing.assert_array_equal(a, b)
    assert (one.positions_S != other.positions_S).any()


def test_a_text_of_nothing_has_no_gaps(own):
    tokens = np.array([own.cls, own.sep, own.pad, own.pad], np.int32)
    found = masking.mask(tokens, np.random.default_rng(0), own, rate=0.5, whole_word=True)
    assert (found.targets_S == -1).all()
    np.testing.assert_array_equal(found.tokens_T, tokens)
