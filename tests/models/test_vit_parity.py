"""The same weights give the same logits as an independent implementation, transformers on torch."""

import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax import trees
from mrl_jax.models import heads, vit
from mrl_jax.models.classifier import Classifier
from mrl_jax.nesting import Nesting

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZE, PATCH, CLASSES = vit.Size(width=24, depth=3, mlp_dim=48, num_heads=3), 4, 11
LAYER = {
    "layernorm_before": "LayerNorm_0",
    "layernorm_after": "LayerNorm_1",
    "attention.q_proj": "MultiHeadDotProductAttention_0/query",
    "attention.k_proj": "MultiHeadDotProductAttention_0/key",
    "attention.v_proj": "MultiHeadDotProductAttention_0/value",
    "attention.o_proj": "MultiHeadDotProductAttention_0/out",
    "mlp.fc1": "MlpBlock_0/Dense_0",
    "mlp.fc2": "MlpBlock_0/Dense_1",
}


def torch_vit():
    config = transformers.ViTConfig(
        hidden_size=SIZE.width,
        num_hidden_layers=SIZE.depth,
        num_attention_heads=SIZE.num_heads,
        intermediate_size=SIZE.mlp_dim,
        layer_norm_eps=1e-6,
        image_size=16,
        patch_size=PATCH,
        num_labels=CLASSES,
    )
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def module(name, state):
    """A dense layer or a norm of torch as the parameters of ours."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return {"scale": weight, "bias": bias} if weight.ndim == 1 else {"kernel": weight.T, "bias": bias}


def converted(model):
    state = {name: jnp.asarray(tensor.numpy()) for name, tensor in model.state_dict().items()}
    per_head = (SIZE.num_heads, SIZE.width // SIZE.num_heads)
    transformer = {"encoder_norm": module("vit.layernorm", state)}
    for i in range(SIZE.depth):
        for theirs, ours in LAYER.items():
            parameters = module(f"vit.layers.{i}.{theirs}", state)
            if "attention.o" in theirs:
                parameters["kernel"] = parameters["kernel"].reshape(*per_head, SIZE.width)
            elif "attention" in theirs:
                parameters["kernel"] = parameters["kernel"].reshape(SIZE.width, *per_head)
                parameters["bias"] = parameters["bias"].reshape(per_head)
            transformer[f"encoderblock_{i}/{ours}"] = parameters
    embeddings = "vit.embeddings."
    positions = state[embeddings + "position_embeddings"]
    backbone = {
        "Transformer": trees.unflatten(trees.flatten(transformer)),
        "pos_embedding": positions[:, 1:],
        "cls": state[embeddings + "cls_token"] + positions[:, :1],
        "embedding": {
            "kernel": state[embeddings + "patch_embeddings.projection.weight"].transpose(2, 3, 1, 0),
            "bias": state[embeddings + "patch_embeddings.projection.bias"],
        },
    }
    return {"params": {"backbone": backbone, "head": module("classifier", state)}}


def test_evaluation_logits():
    reference, nesting = torch_vit(), Nesting((8, SIZE.width))
    head = heads.Head("mrl_e", nesting, CLASSES)
    model = Classifier(vit.ViT(PATCH, SIZE, pool="tok"), head, (0.5,), (0.5,), "float32")
    x = np.random.default_rng(1).normal(size=(4, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).logits
    z, out = model.apply(converted(reference), jnp.asarray(x), train=False)
    assert expected.std() > 0.5
    np.testing.assert_allclose(heads.logits(z, out, nesting, SIZE.width), expected, atol=1e-4, rtol=1e-4)
