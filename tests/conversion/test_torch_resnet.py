"""ResNets of torch give the same logits here at every dim, and ours the same there."""

import functools

import numpy as np
import pytest
from conversion.parity import assert_close, images, logits

from mrl_jax import config, convert, trees, weights
from mrl_jax.conversion import classifiers, ours, torch_resnet
from mrl_jax.conversion.request import Request
from mrl_jax.models import resnet

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
torch_models = pytest.importorskip("conversion.torch_models")

CLASSES, DIMS = 5, (8, 16, 32, 64, 128)
R10 = ((1, 1, 1, 1), False, 16)
BOTTLENECKS = ((1, 2, 1, 1), True, 4)  # both end in 128 features


def nested():
    return torch_models.Nested(DIMS, CLASSES)


def model(fc, *, arch=R10, blurred=False):
    network = torch_models.ResNet(*arch, fc)
    if blurred:
        torch_models.blur(network)
    return torch_models.randomise(network)


def expected(network, x):
    with torch.no_grad():
        found = network(torch.from_numpy(x))
    return [y.numpy() for y in (found if isinstance(found, list) else [found])]


def converted(state, tmp_path, name="", save=torch.save, **request):
    src, dst = tmp_path / "in.pt", tmp_path / "out.safetensors"
    save(state, src)
    dst.unlink(missing_ok=True)
    text = convert.convert(src, dst, Request(**request), name=name, layout="ours", step=None)
    return *weights.load(dst), text


def distributed(state):
    return {f"module.{name}": tensor for name, tensor in state.items()}


HEADS = {
    "mrl": (nested, {}),
    "mrl_e": (lambda: torch_models.Nested(DIMS, CLASSES, tied=True), {}),
    "mrl_e, released": (lambda: torch_models.Tied(DIMS, CLASSES), {"head": "mrl_e", "dims": DIMS}),
    "ff": (lambda: torch_models.Fixed(16, CLASSES), {}),
    "ff, of all features": (lambda: torch.nn.Linear(DIMS[-1], CLASSES), {}),
}


@pytest.mark.parametrize("blurred", [True, False])
@pytest.mark.parametrize("head", HEADS)
def test_logits_at_every_dim(head, blurred, tmp_path):
    make, request = HEADS[head]
    network = model(make(), blurred=blurred)
    x, x_torch = images(33)
    theirs = expected(network, x_torch)
    state = network.state_dict()
    variables, about, _ = converted(distributed(state) if blurred else state, tmp_path, **request)
    assert about["head"] == head.split(",")[0]
    assert about["model"]["blurpool"] is blurred
    assert_close(logits(variables, about, x), theirs)


def test_logits_of_bottlenecks(tmp_path, monkeypatch):
    monkeypatch.setitem(resnet.VARIANTS, "small", (True, BOTTLENECKS[0]))
    network = model(nested(), arch=BOTTLENECKS, blurred=True)
    # Of width 4: the 3x3 convolution of the second stage has 8 channels and so no blur, its shortcut has 16.
    assert "layer2.0.conv2.weight" in network.state_dict()
    assert "layer2.0.downsample.0.conv.weight" in network.state_dict()
    x, x_torch = images(33)
    variables, about, text = converted(distributed(network.state_dict()), tmp_path)
    assert "resnet small (stem imagenet, blurpool True, base_width 4), head mrl of dims (8, 16, 32, 64, 128)" in text
    assert_close(logits(variables, about, x), expected(network, x_torch))


@pytest.mark.parametrize("variant", ["18", "34", "50", "101", "152"])
def test_every_depth_is_told_from_the_names(variant, tmp_path):
    bottleneck, depths = resnet.VARIANTS[variant]
    network = torch_models.ResNet(depths, bottleneck, 2, torch.nn.Linear(64 if bottleneck else 16, 3))
    variables, about, text = converted(network.state_dict(), tmp_path)
    assert about["model"]["variant"] == variant
    assert about["model"]["base_width"] == 2
    assert about["mean"] == [0.485, 0.456, 0.406]
    count = sum(p.numel() for p in network.parameters())
    assert f"{count:,} parameters" in text
    back = torch_resnet.write(variables, about, released=False)
    state = network.state_dict()
    assert set(back) == set(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(back[name], tensor.numpy(), err_msg=name)


@pytest.mark.parametrize(("suffix", "layout"), [(".pt", "torchvision"), (".safetensors", "released")])
@pytest.mark.parametrize(("head", "made"), [("mrl", nested), ("mrl_e", None), ("ff", HEADS["ff"][0])])
def test_ours_gives_the_same_logits_in_torch(head, made, suffix, layout, tmp_path):
    _, x_torch = images(33)
    variables, about = random_ours(head)
    src, dst = tmp_path / "ours.safetensors", tmp_path / f"theirs{suffix}"
    weights.save(src, variables, about)
    text = convert.convert(src, dst, Request(), name="", layout=layout, step=None)
    assert str(dst) in text
    tied = HEADS["mrl_e, released" if layout == "released" else "mrl_e"][0]
    network = model((made or tied)(), blurred=True)
    state = torch.load(dst, weights_only=True) if suffix == ".pt" else safetensors_torch.load_file(dst)
    network.load_state_dict(state, strict=True)
    assert_close(our_logits(head), expected(network.eval(), x_torch))


def random_ours(head):
    dims = (16,) if head == "ff" else DIMS
    about = {
        "model": config.resnet("10") | {"base_width": 16, "blurpool": True},
        "head": head,
        "nesting": {"dims": list(dims), "weights": [1.0] * len(dims)},
        "num_classes": CLASSES,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "grid": None,
        "source": {},
    }
    teller = classifiers.Classifier(head, dims, CLASSES)
    rng = np.random.default_rng(0)
    flat = {}
    for name, shape in ours.shapes(about["model"], teller, 128, (33, 33, 3)).items():
        positive = name.endswith(("scale", "var"))
        draw = (
            rng.uniform(0.5, 1.5, shape) if positive else rng.normal(size=shape) * max(np.prod(shape[:-1]), 25) ** -0.5
        )
        flat[name] = draw.astype(np.float32)
    return trees.unflatten(flat), about


@functools.cache
def our_logits(head):
    return logits(*random_ours(head), images(33)[0])
