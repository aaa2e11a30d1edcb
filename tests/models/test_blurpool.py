import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.models import resnet
from mrl_jax.models.blurpool import blur


def test_an_impulse_becomes_the_kernel_in_its_own_channel():
    x = jnp.zeros((1, 5, 6, 2)).at[0, 2, 3, 1].set(16.0)
    expected = np.zeros((1, 5, 6, 2))
    expected[0, 1:4, 2:5, 1] = [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    np.testing.assert_array_equal(blur(x), expected)


def test_constants_are_kept_away_from_the_zero_padded_border():
    y = blur(jnp.full((1, 6, 6, 1), 3.0))
    np.testing.assert_allclose(y[:, 1:-1, 1:-1], 3.0, rtol=1e-6)
    np.testing.assert_allclose(y[:, 0, 1:-1], 3.0 * 3 / 4, rtol=1e-6)
    np.testing.assert_allclose(y[:, 0, 0], 3.0 * 9 / 16, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        # MRL's recipe: conv2 and downsample of the first blocks of stages 2 to 4; stem and max-pool untouched.
        ({"variant": "50"}, [128, 256, 256, 512, 512, 1024]),
        ({"variant": "18"}, [64, 64, 128, 128, 256, 256]),
        # Only from 16 input channels.
        ({"variant": "18", "base_width": 8}, [16, 16, 32, 32]),
    ],
)
def test_the_blur_precedes_exactly_the_strided_convolutions(monkeypatch, options, channels):
    blurred = []
    monkeypatch.setattr(resnet, "blur", lambda x: blurred.append(x.shape[-1]) or x)
    x = jnp.zeros((1, 64, 64, 3))

    def trace(**extra):
        backbone = resnet.build(**options, **extra)
        jax.eval_shape(lambda key: backbone.init(key, x, train=False), jax.random.key(0))

    trace()
    assert blurred == []
    trace(blurpool=True)
    assert blurred == channels
