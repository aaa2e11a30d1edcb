"""BERTs of transformers give the same features here, and start a run of pairs of texts."""

import json

import jax
import numpy as np
import pytest
import tiny

from mrl_jax import config as defaults
from mrl_jax import convert, models, parts, trees, warm_start, weights
from mrl_jax.conversion.request import Request
from mrl_jax.nesting import Nesting

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def network(kind="BertModel", **options):
    """Of the sizes of Tiny, with weights that make every part count."""
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    settings = transformers.BertConfig(vocab_size=64, max_position_embeddings=24, **sizes, **options)
    made = getattr(transformers, kind)(settings).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return made


def run(src, tmp_path, **request):
    dst = tmp_path / "out.safetensors"
    text = convert.convert(src, dst, Request(**request), name="", layout="ours", step=None)
    return *weights.load(dst), text


@pytest.mark.parametrize(
    ("kind", "options"),
    [("BertModel", {}), ("BertForMaskedLM", {"layer_norm_eps": 1e-2, "hidden_act": "gelu_new"})],
)
def test_features_from_a_folder(kind, options, tmp_path):
    theirs = network(kind, **options)
    theirs.save_pretrained(tmp_path / "bert")
    variables, about, text = run(tmp_path / "bert", tmp_path)
    assert "bert Tiny" in text
    assert "left out" in text
    assert "'--config.init.skip=^temperature/'" in text
    model = dict(about["model"])
    built = models.build(
        model.pop("name"), model, head="none", nesting=Nesting((128,)), num_classes=1, vocabulary=64, pad=0
    )
    tokens = np.random.default_rng(0).integers(1, 64, (3, 20)).astype(np.int32)
    tokens[1, 12:] = 0
    shapes = jax.eval_shape(built.init, jax.random.key(0), {"tokens": tokens})
    whole = trees.unflatten(
        {name: np.zeros(s.shape, s.dtype) for name, s in trees.flatten(shapes).items()} | trees.flatten(variables)
    )
    z, _ = built.apply(whole, {"tokens": tokens}, train=False)
    with torch.no_grad():
        own = {"input_ids": torch.tensor(tokens).long(), "attention_mask": torch.tensor(tokens != 0).long()}
        expected = getattr(theirs, "bert", theirs)(**own).last_hidden_state[:, 0]
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-4)


def test_it_starts_a_run_of_pairs_under_the_first_names_of_norms_too(tmp_path):
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = network().state_dict()
    for new, name in old.items():
        state = {f"{key.removesuffix(new)}{name}" if key.endswith(new) else key: x for key, x in state.items()}
    torch.save({f"bert.{key}": x for key, x in state.items()}, tmp_path / "pytorch_model.bin")
    _, _, text = run(tmp_path / "pytorch_model.bin", tmp_path)
    assert "no config.json" in text
    made = parts.assemble(
        tiny.config(
            data__name="synthetic:size=8,channels=1,classes=20,examples=48,context=8,vocabulary=64",
            data__kind="text_pair",
            head="none",
            model=defaults.bert("Tiny") | {"positions": 24},
            nesting__dims=(16, 128),
            loss={"name": "contrastive", "chunk": 0, "duplicates": "masked"},
            evals={},
        )
    )
    source = warm_start.read(str(tmp_path / "out.safetensors"))
    taken = warm_start.match(source, made.abstract_state, "^temperature/")
    np.testing.assert_array_equal(taken["encoder/word/embedding"], state["embeddings.word_embeddings.weight"])


@pytest.mark.parametrize(
    ("settings", "request_", "message"),
    [
        ({"model_type": "roberta"}, {}, "model_type='roberta', whose tensors only have the names of a BERT's"),
        ({"hidden_act": "relu"}, {}, "hidden_act='relu', which is not one of"),
        ({"num_attention_heads": 4}, {}, "and 4 heads is none of .*: add its size to SIZES"),
        ({}, {"mean": (0.5,)}, "leave --mean and --std out"),
        ({}, {"head": "mrl"}, "--head=mrl: it holds no classifier"),
    ],
)
def test_what_does_not_fit_is_named(settings, request_, message, tmp_path):
    folder = tmp_path / "bert"
    network().save_pretrained(folder)
    own = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(own | settings))
    with pytest.raises(ValueError, match=message):
        run(folder, tmp_path, **request_)
