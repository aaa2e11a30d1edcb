import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mrl_jax import objectives, parts
from mrl_jax.data import array_records
from mrl_jax.losses import MARGINS, evidential, nested_binary
from mrl_jax.nesting import Nesting

NESTING = Nesting((2, 4))
LABELS = np.array([[0, 3, -1], [5, -1, -1], [2, 2, 1]], np.int32)


def head(classes=6):
    rng = np.random.default_rng(0)
    z, kernel, bias = rng.normal(size=(3, 4)), rng.normal(size=(4, classes)), rng.normal(size=classes)
    return jnp.float32(z), {"head/kernel": jnp.float32(kernel), "head/bias": jnp.float32(bias)}


def test_multi_hot_ignores_filling_and_repeats():
    expected = np.zeros((3, 6), bool)
    for row, labels in zip(expected, LABELS):
        row[labels[labels >= 0]] = True
    found = objectives.multi_hot(jnp.asarray(LABELS), 6)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(objectives.multi_hot(jnp.asarray(LABELS[:, 0]), 6), np.eye(6, dtype=bool)[[0, 5, 2]])


@pytest.mark.parametrize("labels", [LABELS, LABELS[:, 0]])
def test_binary_equals_the_loss_on_targets_made_by_hand(labels):
    z, out = head()
    targets = np.zeros((3, 6), np.float32)
    for row, own in zip(targets, labels.reshape(3, -1)):
        row[own[own >= 0]] = 1
    found = jax.jit(objectives.binary(NESTING))(z, out, {"label": labels})
    expected = nested_binary(z, out["head/kernel"], out["head/bias"], jnp.asarray(targets), NESTING)
    np.testing.assert_allclose(found.per_dim, expected.per_dim, rtol=1e-6)


@pytest.fixture
def several(tmp_path):
    """Forty images of six classes, one to three labels each."""
    rng = np.random.default_rng(0)
    examples = [
        {"image": rng.integers(0, 256, (16, 16, 1), np.uint8), "label": rng.permutation(6)[: 1 + i % 3]}
        for i in range(40)
    ]
    shard = array_records.write_shard(tmp_path / "train.array_record", examples)
    manifest = {"name": "several", "num_classes": 6, "label_names": None, "max_labels": 3, "splits": {"train": [shard]}}
    array_records.write_manifest(tmp_path, manifest)
    return {"data__name": f"array_record:{tmp_path}", "data__eval_split": "train", "head": "mrl_e"}


def test_softmax_is_refused_before_compilation(several):
    with pytest.raises(ValueError, match=r"loss.name='softmax' takes one label.*up to 3: set loss.name to .*'binary'"):
        parts.assemble(tiny.config(**several))


def test_several_labels_are_trained_on(several):
    config = tiny.config(**several, evals={})
    config.unlock().loss = {"name": "binary", "chunk": 0}
    run = parts.assemble(config)
    assert run.abstract_batch["label"].shape == (16, 3)
    with jax.set_mesh(run.mesh):
        state, update, batches = parts.init_state(run), parts.jit_train_step(run), parts.train_batches(run, 0)
        measured = []
        for _ in range(12):
            state, values = update(state, next(batches))
            measured.append(float(values["train/loss"]))
        batches.close()
    assert measured[-1] < 0.9 * measured[0]


def untied(out):
    """The tied head of `head` as one per dim."""
    kernel, bias = out["head/kernel"], out["head/bias"]
    return {f"head/{n}_{m}": x for m in NESTING.dims for n, x in (("kernel", kernel[:m]), ("bias", bias))}


@pytest.mark.parametrize("options", [{"evidence": "exp_clip", "kl_weight": 0.1}, {"kl_weight": 0.0, "chunk": 4}])
def test_evidential_is_that_of_the_logits_of_every_dim(options):
    z, out = head()
    batch = {"label": jnp.asarray(LABELS[:, 0])}
    objective = objectives.evidential(NESTING, **options)
    found = jax.jit(objective)(z, out, batch)
    for g, m in enumerate(NESTING.dims):
        logits = z[:, :m] @ out["head/kernel"][:m] + out["head/bias"][None]
        loss, uncertainty = evidential(logits, batch["label"], evidence=options.get("evidence", "auto"),
                                       kl_weight=options["kl_weight"])  # fmt: skip
        np.testing.assert_allclose(found.per_dim[g], loss.mean(), rtol=1e-5)
        np.testing.assert_allclose(found.known["uncertainty"][g], uncertainty, rtol=1e-5)
        softplus = options.get("evidence") is None
        alpha = 1 + np.asarray(jax.nn.softplus(logits) if softplus else jnp.exp(logits))
        own = alpha[np.arange(len(alpha)), LABELS[:, 0]]
        np.testing.assert_allclose(found.known["p_label"][g], own / alpha.sum(axis=1), rtol=1e-4)
        np.testing.assert_array_equal(found.correct[g], logits.argmax(axis=1) == batch["label"])
    np.testing.assert_allclose(found.total, found.per_dim.sum(), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(objective)(z, untied(out), batch).per_dim, found.per_dim, rtol=1e-5)


@pytest.mark.parametrize("name", ["arcface", "cosface"])
def test_margins_are_put_on_the_cosines_of_every_prefix(name):
    z, out = head()
    batch = {"label": jnp.asarray(LABELS[:, 0])}
    objective = jax.jit(objectives.OBJECTIVES[name](NESTING, margin=0.2, scale=5.0))
    found = objective(z, out, batch)
    for g, m in enumerate(NESTING.dims):
        unit = [x / np.linalg.norm(x, axis=axis, keepdims=True) for x, axis in ((z[:, :m], 1),
                                                                              (out["head/kernel"][:m], 0))]  # fmt: skip
        logits = MARGINS[name](unit[0] @ unit[1], batch["label"], margin=0.2, scale=5.0)
        own = jnp.take_along_axis(logits, batch["label"][:, None], axis=1)[:, 0]
        np.testing.assert_allclose(found.per_dim[g], (jax.nn.logsumexp(logits, axis=1) - own).mean(), rtol=1e-5)
    np.testing.assert_allclose(objective(3 * z, untied(out), batch).per_dim, found.per_dim, rtol=1e-5)
    easier = jax.jit(objectives.OBJECTIVES[name](NESTING, margin=0.0, scale=5.0))(z, out, batch)
    assert (found.per_dim > easier.per_dim).all()


@pytest.mark.parametrize("kind", ["tied", "untied"])
@pytest.mark.parametrize("name", ["evidential", "arcface", "cosface"])
def test_the_gradient_never_holds_the_logits_of_all_classes(name, kind):
    rows, classes, nesting = 64, 20_000, Nesting((8, 16, 32, 64))
    objective = objectives.OBJECTIVES[name](nesting, chunk=500)
    shapes = {"": 64} if kind == "tied" else {f"_{m}": m for m in nesting.dims}
    out = {f"head/kernel{suffix}": jax.ShapeDtypeStruct((m, classes), jnp.float32) for suffix, m in shapes.items()}
    out |= {f"head/bias{suffix}": jax.ShapeDtypeStruct((classes,), jnp.float32) for suffix in shapes}
    z, label = jax.ShapeDtypeStruct((rows, 64), jnp.float32), jax.ShapeDtypeStruct((rows,), jnp.int32)
    step = jax.jit(jax.grad(lambda z, out, label: objective(z, out, {"label": label}).total, argnums=(0, 1)))
    compiled = step.lower(z, out, label).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * rows * classes


def test_a_new_loss_is_one_line(monkeypatch):
    monkeypatch.setitem(objectives.OBJECTIVES, "mine", objectives.softmax)
    assert parts.assemble(tiny.config(loss__name="mine")).objective
