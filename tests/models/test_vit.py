import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax import models, trees
from mrl_jax.models import vit
from mrl_jax.nesting import Nesting

SIZE = vit.Size(width=16, depth=2, mlp_dim=32, num_heads=2)
X = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))


def tiny(**options):
    """A module and its parameters: random ones drawn by numpy, which has nothing to compile."""
    module = vit.ViT(4, SIZE, **options)
    shapes = jax.eval_shape(lambda key: module.init(key, X, train=False), jax.random.key(0))
    rng = np.random.default_rng(1)
    return module, jax.tree.map(lambda x: jnp.asarray(rng.normal(scale=0.2, size=x.shape), x.dtype), shapes)


def stacked(variables):
    """The parameters of a looped transformer as those of a scanned one."""
    transformer = dict(variables["params"]["Transformer"])
    layers = [transformer.pop(f"encoderblock_{i}") for i in range(SIZE.depth)]
    transformer["encoderblock"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return {"params": {**variables["params"], "Transformer": transformer}}


@pytest.mark.parametrize(
    ("variant", "dim", "published"),
    [
        ("Ti/16", 192, 5_717_416),
        ("S/16", 384, 22_050_664),
        ("B/16", 768, 86_567_656),
        ("L/16", 1024, 304_326_632),
        ("H/14", 1280, 632_045_800),
    ],
)
def test_parameter_counts_are_the_published_ones(variant, dim, published):
    def count(**options):
        options = {"variant": variant, **options}
        model = models.build("vit", options, head="ff", nesting=Nesting.fixed(dim), num_classes=1000)
        image = jnp.zeros((1, 224, 224, 3), jnp.uint8)
        return trees.count(jax.eval_shape(model.init, jax.random.key(0), {"image": image}))

    # The published models give the class token a position of its own, which the token itself can learn here.
    assert count(pool="tok", scan=True) == published - dim
    assert count(pool="gap") == published - 2 * dim
    assert count(pool="tok", posemb="sincos2d") == published - dim - dim * (224 // int(variant.split("/")[1])) ** 2


@pytest.mark.parametrize("options", [{"scan": True}, {"remat": True}, {"scan": True, "remat": True}])
def test_scan_and_remat_change_neither_values_nor_gradients(options):
    def value_and_gradient(module, variables):
        def loss(v):
            return jnp.sum(jnp.sin(module.apply(v, X, train=True)))

        return jax.jit(jax.value_and_grad(loss))(variables)

    looped, variables = tiny()
    value, gradient = value_and_gradient(looped, variables)
    other, other_variables = tiny(**options)
    if other.scan:
        variables, gradient = stacked(variables), stacked(gradient)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, other_variables)
    other_value, other_gradient = value_and_gradient(other, variables)
    np.testing.assert_allclose(value, other_value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), gradient, other_gradient)


def test_scanned_layers_start_different_from_each_other():
    module = vit.ViT(4, SIZE, scan=True)
    variables = module.init(jax.random.key(0), X, train=False)
    kernel = variables["params"]["Transformer"]["encoderblock"]["MlpBlock_0"]["Dense_0"]["kernel"]
    assert float(jnp.abs(kernel[0] - kernel[1]).max()) > 0.1


@pytest.mark.parametrize("options", [{}, {"scan": True, "remat": True}])
def test_dropout_is_a_function_of_its_key_and_off_in_evaluation(options):
    module, variables = tiny(dropout=0.5, **options)
    plain, _ = tiny(**options)

    @jax.jit
    def train(key):
        return module.apply(variables, X, train=True, rngs={"dropout": key})

    np.testing.assert_array_equal(train(jax.random.key(0)), train(jax.random.key(0)))
    assert float(jnp.abs(train(jax.random.key(0)) - train(jax.random.key(1))).max()) > 0.1
    np.testing.assert_allclose(
        module.apply(variables, X, train=False), plain.apply(variables, X, train=True), atol=1e-5
    )


def test_sincos_similarity_depends_on_the_displacement_only():
    grid = np.asarray(vit.sincos2d(4, 5, 16)).reshape(4, 5, 16)
    similarity = np.einsum("hwd,ijd->hwij", grid, grid)
    np.testing.assert_allclose(similarity[1:, 1:, 1:, 1:], similarity[:-1, :-1, :-1, :-1], atol=1e-5)
    # Each pair of sine and cosine has norm 1; rows and columns take different halves.
    np.testing.assert_allclose(similarity[2, 3, 2, 3], 8, atol=1e-5)
    assert not np.allclose(grid[0, 1], grid[1, 0])


def test_fixed_positions_serve_another_image_size_and_learned_ones_refuse():
    module, variables = tiny(posemb="sincos2d")
    assert module.apply(variables, X[:, :4], train=False).shape == (2, 16)
    module, variables = tiny()
    with pytest.raises(ValueError, match=r"has 1x3 patches, but pos_embedding was initialised for 6.*sincos2d"):
        module.apply(variables, X[:, :4], train=False)


def test_without_positions_the_order_of_the_patches_does_not_matter():
    swapped = jnp.concatenate([X[:, 4:], X[:, :4]], axis=1)
    for pool in vit.POOLS:
        module, variables = tiny(pool=pool)
        before, after = (module.apply(variables, x, train=False) for x in (X, swapped))
        assert float(jnp.abs(before - after).max()) > 1e-3
        variables["params"]["pos_embedding"] = jnp.zeros((1, 6, 16))
        before, after = (module.apply(variables, x, train=False) for x in (X, swapped))
        np.testing.assert_allclose(before, after, atol=1e-5)


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
    for pool in vit.POOLS:
        module, variables = tiny(pool=pool)
        exact, z = (module.apply(variables, X.astype(dtype), train=False) for dtype in (jnp.float32, jnp.bfloat16))
        assert z.dtype == jnp.bfloat16
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        np.testing.assert_allclose(z.astype(jnp.float32), exact, atol=0.1)


def test_the_image_must_be_whole_patches():
    with pytest.raises(ValueError, match="image size 8x10 is not divisible by the patch size 4"):
        vit.ViT(4, SIZE).init(jax.random.key(0), X[:, :, :10], train=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "B"}, r"model\.variant='B': name a size .* 'B/16'"),
        ({"variant": "Q/16"}, r"model\.variant='Q/16': name a size of .*'Ti'"),
        ({"variant": "B/0"}, "model.variant='B/0'"),
        ({"posemb": "learned"}, r"model\.posemb='learned' .*did you mean 'learn'"),
        ({"pool": "gao"}, r"model\.pool='gao' .*did you mean 'gap'"),
        ({"dropout": 1.0}, r"model\.dropout=1\.0 must be in \[0, 1\)"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        vit.build(**options)
