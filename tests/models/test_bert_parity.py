"""The text encoder against another implementation with the same random weights."""

import jax
import numpy as np
import pytest

from mrl_jax import config as defaults
from mrl_jax import models, trees
from mrl_jax.nesting import Nesting

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

INSIDE = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "mlp_in",
    "output.dense": "mlp_out",
    "output.LayerNorm": "mlp_norm",
}


def ours(state, shapes):
    """Their tensors under our names, in our shapes."""
    found = {"position": state["embeddings.position_embeddings.weight"].copy()}
    # Every text is of the first kind: its embedding is a constant.
    found["position"] += state["embeddings.token_type_embeddings.weight"][:1]
    found["word/embedding"] = state["embeddings.word_embeddings.weight"]
    modules = {"embeddings.LayerNorm": "embed_norm"}
    depth = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layer."))
    modules |= {f"encoder.layer.{i}.{a}": f"layer_{i}/{b}" for i in range(depth) for a, b in INSIDE.items()}
    for theirs, own in modules.items():
        weight, bias = state[f"{theirs}.weight"], state[f"{theirs}.bias"]
        leaf = "scale" if weight.ndim == 1 else "kernel"
        found[f"{own}/{leaf}"], found[f"{own}/bias"] = weight.T, bias
    return {name: found[name].reshape(shapes[name]) for name in shapes}


def test_features_equal_those_of_the_other_implementation():
    torch.manual_seed(0)
    settings = transformers.BertConfig(
        vocab_size=50, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512,
        max_position_embeddings=24, initializer_range=0.2,
    )  # fmt: skip
    theirs = transformers.BertModel(settings, add_pooling_layer=False).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "LayerNorm" in name or name.endswith("bias"):
                parameter += 0.2 * torch.randn_like(parameter)
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 50, (3, 20)).astype(np.int32)
    tokens[1, 12:], tokens[2, 5:] = 0, 0
    for pool, norm in (("cls", "post"), ("mean", "post")):
        options = defaults.bert("Tiny") | {"pool": pool, "norm": norm, "positions": 24}
        model = models.build(
            options.pop("name"), options, head="none", nesting=Nesting((16, 128)), num_classes=1, vocabulary=50, pad=0
        )
        shapes = trees.flatten(jax.eval_shape(model.init, jax.random.key(0), {"tokens": tokens})["params"]["encoder"])
        state = {name: value.numpy() for name, value in theirs.state_dict().items()}
        flat = ours(state, {name: s.shape for name, s in shapes.items()})
        z, _ = model.apply({"params": {"encoder": trees.unflatten(flat)}}, {"tokens": tokens}, train=False)
        mask = torch.tensor((tokens != 0).astype(np.int64))
        with torch.no_grad():
            hidden = theirs(input_ids=torch.tensor(tokens, dtype=torch.long), attention_mask=mask).last_hidden_state
        mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        np.testing.assert_allclose(z, hidden[:, 0] if pool == "cls" else mean, rtol=1e-4, atol=1e-4)
