"""The same weights give the same logits as an independent implementation, transformers on torch."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax import trees
from mrl_jax.models import heads, resnet
from mrl_jax.models.classifier import Classifier
from mrl_jax.nesting import Nesting

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CLASSES, BASE_WIDTH, DEPTHS = 11, 16, (1, 2, 1, 1)
OUTSIDE_STAGES = {
    "resnet.embedder.embedder.convolution": "backbone/conv1",
    "resnet.embedder.embedder.normalization": "backbone/bn1",
    "classifier.1": "head",
}
STAGES = r"resnet\.encoder\.stages\.(\d)\.layers\.(\d)\.(?:layer\.(\d)|shortcut)\.(convolution|normalization)"


class BlurredConvolution(torch.nn.Module):
    """The reference's BlurPoolConv2d, by its definition."""

    def __init__(self, convolution):
        super().__init__()
        self.convolution = convolution
        row = torch.tensor([1.0, 2.0, 1.0])
        self.kernel = (torch.outer(row, row) / 16).expand(convolution.in_channels, 1, 3, 3)

    def forward(self, x):
        x = torch.nn.functional.conv2d(x, self.kernel, padding=1, groups=self.convolution.in_channels)
        return self.convolution(x)


def torch_resnet(bottleneck):
    widths = [BASE_WIDTH * 2**i * (4 if bottleneck else 1) for i in range(4)]
    config = transformers.ResNetConfig(
        embedding_size=BASE_WIDTH,
        hidden_sizes=widths,
        depths=list(DEPTHS),
        layer_type="bottleneck" if bottleneck else "basic",
        downsample_in_bottleneck=False,
        num_labels=CLASSES,
    )
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.running_var, 0.5)):
                torch.nn.init.uniform_(tensor, low, 1.5)
            for tensor in (module.bias, module.running_mean):
                torch.nn.init.normal_(tensor, std=0.2)
    return model


def jax_resnet(bottleneck, blurpool=False):
    backbone = resnet.ResNet(bottleneck, DEPTHS, BASE_WIDTH, blurpool=blurpool)
    nesting = Nesting((8, backbone.embed_dim))
    return Classifier(backbone, heads.Head("mrl_e", nesting, CLASSES), (0.5,), (0.5,), "float32"), nesting


def our_name(torch_name):
    if torch_name in OUTSIDE_STAGES:
        return OUTSIDE_STAGES[torch_name]
    stage, block, layer, kind = re.fullmatch(STAGES, torch_name).groups()
    if layer is None:
        module = {"convolution": "downsample_0", "normalization": "downsample_1"}[kind]
    else:
        module = {"convolution": "conv", "normalization": "bn"}[kind] + str(int(layer) + 1)
    return f"backbone/layer{int(stage) + 1}_{block}/{module}"


def converted(model):
    """The variables of our model from the state of torch's."""
    variables = {}
    for torch_name, tensor in model.state_dict().items():
        module, kind = torch_name.rsplit(".", 1)
        name, array = our_name(module), jnp.asarray(tensor.numpy())
        if kind in ("running_mean", "running_var"):
            variables[f"batch_stats/{name}/{kind.removeprefix('running_')}"] = array
        elif array.ndim == 4:
            variables[f"params/{name}/kernel"] = array.transpose(2, 3, 1, 0)
        elif array.ndim == 2:
            variables[f"params/{name}/kernel"] = array.T
        elif kind in ("weight", "bias"):
            variables[f"params/{name}/{'scale' if kind == 'weight' else 'bias'}"] = array
    return trees.unflatten(variables)


def images(size):
    x = np.random.default_rng(1).normal(size=(4, size, size, 3)).astype(np.float32)
    return jnp.asarray(x), torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def jax_logits(model, nesting, variables, x, **kwargs):
    (z, out), updated = model.apply(variables, x, mutable=["batch_stats"], **kwargs)
    return heads.logits(z, out, nesting, nesting.full), updated


@pytest.mark.parametrize(("bottleneck", "size"), [(False, 64), (True, 64), (True, 49)])
def test_evaluation_logits(bottleneck, size):
    reference, (model, nesting) = torch_resnet(bottleneck), jax_resnet(bottleneck)
    x, x_torch = images(size)
    with torch.no_grad():
        expected = reference(x_torch).logits
    actual, _ = jax_logits(model, nesting, converted(reference), x, train=False)
    assert expected.std() > 0.05
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=1e-4)


def test_blurpool_logits():
    reference, (model, nesting) = torch_resnet(True), jax_resnet(True, blurpool=True)
    variables = converted(reference)
    blurred = []
    for layer in [m for m in reference.modules() if isinstance(getattr(m, "convolution", None), torch.nn.Conv2d)]:
        if max(layer.convolution.stride) > 1 and layer.convolution.in_channels >= 16:
            layer.convolution = BlurredConvolution(layer.convolution)
            blurred.append(layer)
    assert len(blurred) == 6
    x, x_torch = images(64)
    with torch.no_grad():
        expected = reference(x_torch).logits
    actual, _ = jax_logits(model, nesting, variables, x, train=False)
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=1e-4)
    unblurred, _ = jax_logits(jax_resnet(True)[0], nesting, variables, x, train=False)
    assert np.abs(unblurred - expected.numpy()).max() > 1e-3


def test_training_logits_and_running_statistics():
    reference, (model, nesting) = torch_resnet(False), jax_resnet(False)
    before = converted(reference)
    counts = {}
    for name, module in reference.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda m, _, y, name=name: counts.update({name: y.numel() // y.shape[1]}))
    x, x_torch = images(64)
    with torch.no_grad():
        expected = reference.train()(x_torch).logits
    actual, updated = jax_logits(model, nesting, before, x, train=True)
    np.testing.assert_allclose(actual, expected, atol=1e-3, rtol=1e-3)
    # torch averages the unbiased variance: bring its update back to the biased one before comparing.
    with torch.no_grad():
        for name, module in reference.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                n, old = counts[name], torch_resnet(False).get_submodule(name).running_var
                module.running_var.copy_(0.9 * old + (module.running_var - 0.9 * old) * (n - 1) / n)
    after = trees.flatten(converted(reference)["batch_stats"])
    ours = trees.flatten(updated["batch_stats"])
    assert set(after) == set(ours)
    for name, value in after.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-4, rtol=1e-4, err_msg=name)
