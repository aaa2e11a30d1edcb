"""How many classes a loss visits at a time."""

import pytest

from mrl_jax.losses.chunks import choose_chunk

LINE = 64


@pytest.mark.parametrize("classes", [4097, 18000, 18291, 30522])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_chosen_chunk_on_a_cpu_is_an_odd_number_of_lines(classes, shards):
    chunk = choose_chunk(classes, 7, 512, shards, None)
    assert chunk < classes // shards
    assert chunk % LINE == 0
    assert chunk // LINE % 2 == 1


def test_few_logits_are_one_chunk():
    assert choose_chunk(1000, 9, 256, 1, None) == 1000
    assert choose_chunk(37, 3, 10, 1, None) == 37


def test_a_chunk_that_is_given_is_that_of_all_shards_together():
    assert choose_chunk(1000, 9, 256, 4, 100) == 25
    assert choose_chunk(1000, 9, 256, 4, 5000) == 250


@pytest.mark.parametrize("chunk", [0, -1, 2.0, True])
def test_a_chunk_that_is_no_positive_number_is_refused(chunk):
    with pytest.raises(ValueError, match="positive number of classes"):
        choose_chunk(10, 1, 1, 1, chunk)
