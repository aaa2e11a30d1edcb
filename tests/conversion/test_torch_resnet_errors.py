"""What does not fit is listed by name in one error."""

import re

import numpy as np
import pytest

from mrl_jax import config, trees
from mrl_jax.conversion import classifiers, ours, torch_resnet
from mrl_jax.conversion.request import Request

MODEL = config.resnet("10") | {"base_width": 4, "blurpool": True}
DIMS = (8, 16, 32)


def state(kind="mrl", dims=DIMS, released=False):
    """A state dict under torchvision's names."""
    head = classifiers.Classifier(kind, dims, 3)
    shapes = ours.shapes(MODEL, head, 32, (32, 32, 3))
    variables = trees.unflatten({name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()})
    about = {"model": MODEL, "head": kind, "nesting": {"dims": dims}, "num_classes": 3}
    return torch_resnet.write(variables, about, released=released)


def refused(tensors, match, **request):
    with pytest.raises(ValueError, match=match):
        torch_resnet.read(tensors, Request(**request))


def test_missing_extra_and_misshapen_tensors_are_listed_together():
    tensors = state()
    del tensors["layer2.0.bn1.running_mean"]
    del tensors["bn1.weight"]
    tensors["layer5.0.conv1.weight"] = tensors["fc.scale"] = np.zeros(2, np.float32)
    tensors["fc.nesting_classifier_1.bias"] = np.zeros(4, np.float32)
    tensors["bn1.bias"] = np.zeros(4, np.int64)
    message = (
        "its tensors are not those of a resnet10 with head mrl of dims (8, 16, 32); "
        "2 missing: bn1.weight, layer2.0.bn1.running_mean; 2 unknown: fc.scale, layer5.0.conv1.weight; "
        "1 of another shape: fc.nesting_classifier_1.bias is (4,) instead of (3,); 1 not of floats: bn1.bias is int64"
    )
    refused(tensors, re.escape(message))


def test_counters_are_not_needed():
    tensors = {name: value for name, value in state().items() if not name.endswith("num_batches_tracked")}
    assert torch_resnet.read(tensors, Request()).about["head"] == "mrl"


def test_another_blur_is_refused():
    tensors = state()
    name = next(n for n in tensors if n.endswith("blur_filter"))
    tensors[name] = tensors[name] * 2
    refused(tensors, f"{re.escape(name)} is another filter")


def test_a_missing_classifier_is_named():
    tensors = state()
    del tensors["fc.nesting_classifier_1.weight"]
    refused(tensors, r"1 missing: fc\.nesting_classifier_1\.weight")
    tensors = state("ff", (8,))
    del tensors["fc.weight"]
    refused(tensors, r"1 missing: fc\.weight")


def test_half_the_names_with_a_prefix():
    tensors = state()
    tensors["module.bn1.weight"] = tensors.pop("bn1.weight")
    refused(tensors, r"1 missing: bn1\.weight; 1 unknown: module\.bn1\.weight")


@pytest.mark.parametrize(
    ("kind", "request_", "match"),
    [
        ("mrl", {"head": "ff"}, r"--head=ff: its classifiers read \(8, 16, 32\) features, which is a head of mrl"),
        ("mrl", {"dims": (8, 32)}, r"--dims=\(8, 32\): its classifiers read \(8, 16, 32\) features"),
        ("mrl_e", {"dims": (8, 16)}, r"ends at 16, but the embedding has 32 features"),
        ("mrl_e", {"dims": (16, 8, 32)}, "strictly increasing"),
        ("mrl", {"head": "mlr"}, "did you mean 'mrl'"),
    ],
)
def test_requests_that_contradict_the_file(kind, request_, match):
    refused(state(kind), match, **request_)


def test_the_classifier_left_out():
    found = torch_resnet.read(state(), Request(head="none"))
    assert set(found.variables["params"]) == {"backbone"}
    assert (found.about["head"], found.about["nesting"]["dims"]) == ("none", [])
    refused({n: v for n, v in state().items() if not n.startswith("fc.")}, "it holds no classifier", head="ff")


def test_dims_of_a_tied_head_are_said_to_be_assumed():
    found = torch_resnet.read(state("mrl_e"), Request())
    assert found.about["nesting"]["dims"] == [8, 16, 32]
    assert "does not tell its dims: taken to be (8, 16, 32)" in found.notes[0]
    assert torch_resnet.read(state("mrl_e"), Request(dims=(4, 32))).about["nesting"]["dims"] == [4, 32]
    assert classifiers.halving(2048) == (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    assert classifiers.halving(768) == (12, 24, 48, 96, 192, 384, 768)
