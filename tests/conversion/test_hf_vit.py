"""ViTs of transformers give the same logits here, from their files and from state dicts."""

import json
import re

import numpy as np
import pytest
from conversion.parity import assert_close, images, logits

from mrl_jax import convert, weights
from mrl_jax.conversion.request import Request
from mrl_jax.models import vit

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZE = vit.Size(width=24, depth=2, mlp_dim=48, num_heads=3)


@pytest.fixture(autouse=True)
def _known_size(monkeypatch):
    monkeypatch.setitem(vit.SIZES, "nano", SIZE)


def model(kind="ViTForImageClassification", spread=0.3, **options):
    config = transformers.ViTConfig(
        hidden_size=SIZE.width,
        num_hidden_layers=SIZE.depth,
        num_attention_heads=SIZE.num_heads,
        intermediate_size=SIZE.mlp_dim,
        image_size=16,
        patch_size=4,
        num_labels=5,
        **options,
    )
    network = getattr(transformers, kind)(config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=spread, generator=generator)
    return network


def run(src, tmp_path, **request):
    dst = tmp_path / "out.safetensors"
    dst.unlink(missing_ok=True)
    text = convert.convert(src, dst, Request(**request), name="", layout="ours", step=None)
    return *weights.load(dst), text


def expected(network, x):
    with torch.no_grad():
        return [network(torch.from_numpy(x)).logits.numpy()]


# Small activations: there the epsilon of the norms shows.
@pytest.mark.parametrize(
    "options", [{"spread": 0.02}, {"layer_norm_eps": 1e-2, "hidden_act": "gelu_pytorch_tanh"}], ids=["eps", "gelu"]
)
def test_logits_from_a_folder(options, tmp_path):
    network = model(**options)
    network.save_pretrained(tmp_path / "vit")
    x, x_torch = images(16)
    variables, about, text = run(tmp_path / "vit", tmp_path)
    assert about["head"] == "ff"
    assert about["grid"] == [4, 4]
    assert "vit nano/4" in text
    theirs = expected(network, x_torch)
    ours = logits(variables, about, x)[SIZE.width]
    scale = np.abs(theirs[0]).max()
    np.testing.assert_allclose(ours / scale, theirs[0] / scale, atol=1e-5)


def test_logits_from_a_state_dict(tmp_path):
    network = model()
    src = tmp_path / "pytorch_model.bin"
    torch.save(network.state_dict(), src)
    x, x_torch = images(16)
    variables, about, text = run(src, tmp_path)
    assert "no config.json" in text
    assert_close(logits(variables, about, x), expected(network, x_torch))


def test_the_backbone_alone(tmp_path):
    network = model("ViTModel")
    network.save_pretrained(tmp_path / "vit")
    variables, about, text = run(tmp_path / "vit", tmp_path)
    assert about["head"] == "none"
    assert set(variables["params"]) == {"backbone"}
    assert "pooler behind the class token was left out" in text
    assert "holds no classifier" in text
    assert "--config.model.pool=tok --config.model.norm_eps=1e-12 --config.model.gelu=exact" in text
    assert "'--config.init.skip=^head/'" in text


def test_the_classifier_left_out_or_tied(tmp_path):
    src = tmp_path / "vit.bin"
    torch.save(model().state_dict(), src)
    variables, about, _ = run(src, tmp_path, head="none")
    assert set(variables["params"]) == {"backbone"}
    variables, about, _ = run(src, tmp_path, head="mrl_e", dims=(6, 24), mean=(0.1,), std=(0.2,))
    assert about["nesting"] == {"dims": [6, 24], "weights": [1.0, 1.0]}
    assert (about["mean"], about["std"]) == ([0.1], [0.2])
    assert set(variables["params"]["head"]) == {"kernel", "bias"}


def test_every_difference_is_listed(tmp_path):
    state = dict(model().state_dict())
    del state["vit.layers.1.attention.q_proj.bias"]
    del state["vit.layernorm.weight"]
    state["vit.more"] = torch.zeros(1)
    state["classifier.bias"] = torch.zeros(6)
    torch.save(state, tmp_path / "vit.bin")
    message = (
        "vit.bin (as hf_vit): its tensors are not those of a ViT-nano/4; "
        "2 missing: encoder.layer.1.attention.attention.query.bias, layernorm.weight; 1 unknown: more; "
        "1 of another shape: classifier.bias is (6,) instead of (5,)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        run(tmp_path / "vit.bin", tmp_path)


def test_a_size_that_is_not_ours(tmp_path):
    network = model()
    network.save_pretrained(tmp_path / "vit")
    settings = json.loads((tmp_path / "vit" / "config.json").read_text())
    (tmp_path / "vit" / "config.json").write_text(json.dumps(settings | {"num_attention_heads": 2}))
    with pytest.raises(ValueError, match=r"width 24, depth 2, MLP 48 and 2 heads is none of .*'nano'"):
        run(tmp_path / "vit", tmp_path)
    (tmp_path / "vit" / "config.json").write_text(json.dumps(settings | {"hidden_act": "relu"}))
    with pytest.raises(ValueError, match=r"hidden_act='relu'"):
        run(tmp_path / "vit", tmp_path)
