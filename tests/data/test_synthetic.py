import numpy as np
import pytest

from mrl_jax.data import synthetic


def test_defaults_and_options():
    train, test = synthetic.records("", "train"), synthetic.records("", "test")
    assert (len(train), len(test), train.classes) == (512, 256, 10)
    assert train[0]["image"].shape == (32, 32, 3)
    assert train[0]["image"].dtype == np.uint8
    small = synthetic.records("size=5, channels=1,classes=3,examples=7", "test")
    assert (len(small), small.classes, small[6]["image"].shape) == (7, 3, (5, 5, 1))


def test_a_record_is_a_function_of_split_and_index():
    train, test = synthetic.records("", "train"), synthetic.records("", "test")
    np.testing.assert_array_equal(train[3]["image"], synthetic.records("", "train")[3]["image"])
    images = [source[i]["image"].tobytes() for source in (train, test) for i in range(30)]
    assert len(set(images)) == 60


def test_classes_are_balanced_and_the_nearest_class_mean_tells_them():
    train, test = (synthetic.records("size=16", split) for split in ("train", "test"))
    x, y = (np.stack([train[i][k] for i in range(100)]) for k in ("image", "label"))
    assert set(np.bincount(y)) == {10}
    means = np.stack([x[y == c].mean(0) for c in range(10)])
    hits = [np.argmin(np.square(means - test[i]["image"]).sum((1, 2, 3))) == test[i]["label"] for i in range(50)]
    assert all(hits)


@pytest.mark.parametrize(
    ("options", "split", "message"),
    [
        ("", "validation", r"split 'validation' of 'synthetic' is not one of \['test', 'train'\]"),
        ("sizes=3", "train", "option 'sizes'.*did you mean 'size'"),
        ("split=3", "train", "option 'split'"),
        ("size=0", "train", "size='0' of 'synthetic' must be a positive integer"),
        ("size", "train", "size=''"),
        ("examples=1e3", "train", "examples='1e3'"),
    ],
)
def test_bad_options_are_named(options, split, message):
    with pytest.raises(ValueError, match=message):
        synthetic.records(options, split)
