"""The nesting: which prefixes of an embedding are trained, and how much each one counts."""

import dataclasses
import math
import numbers

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Nesting:
    """The set M of nested dims and the weight c_m of each (MRL, section 3).

    Hashable, so that a jitted function can take it as a static argument.

    Attributes:
      dims: strictly increasing positive ints; the last one is the full dim of the embedding.
      weights: one finite, non-negative float per dim, not all zero; None means 1 for every dim, as in the paper.

    Raises:
      ValueError: where dims or weights are not of that form; the message names the field and its value.
    """

    dims: tuple[int, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self):
        """Checks and normalises the fields."""
        dims = tuple(self.dims)
        if not dims:
            raise ValueError("nesting.dims is empty: name at least one dim, for example (8, 16, 32)")
        if not all(isinstance(m, numbers.Integral) and not isinstance(m, bool) and m > 0 for m in dims):
            raise ValueError(f"nesting.dims={dims}: every dim must be a positive integer")
        if any(a >= b for a, b in zip(dims, dims[1:])):
            raise ValueError(f"nesting.dims={dims}: dims must be strictly increasing; sort them and drop repeats")
        weights = (1.0,) * len(dims) if self.weights is None else tuple(float(w) for w in self.weights)
        if len(weights) != len(dims):
            raise ValueError(f"nesting.weights={weights} has {len(weights)} entries for {len(dims)} dims {dims}")
        if not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
            raise ValueError(f"nesting.weights={weights}: weights must be finite, not negative and not all zero")
        object.__setattr__(self, "dims", tuple(int(m) for m in dims))
        object.__setattr__(self, "weights", weights)

    @classmethod
    def halving(cls, full: int, smallest: int) -> "Nesting":
        """`full`, `full`/2, ... down to `smallest`: the paper's choice (section 4.1), e.g. 2048 to 8."""
        dims = [full]
        while dims[-1] > smallest and dims[-1] % 2 == 0:
            dims.append(dims[-1] // 2)
        if dims[-1] != smallest:
            raise ValueError(f"halving {full} never reaches smallest={smallest}: it passes {dims}")
        return cls(tuple(reversed(dims)))

    @classmethod
    def uniform(cls, full: int, step: int) -> "Nesting":
        """Every multiple of `step` below `full`, and `full` itself: a uniform or dense grid (appendix K)."""
        if step <= 0:
            raise ValueError(f"step={step} must be positive")
        return cls((*range(step, full, step), full))

    @classmethod
    def fixed(cls, full: int) -> "Nesting":
        """One dim only: the fixed-feature baseline FF-k."""
        return cls((full,))

    @property
    def full(self) -> int:
        """The full dim of the embedding."""
        return self.dims[-1]

    def __len__(self) -> int:
        """The number of nested dims, G."""
        return len(self.dims)


def check_sample(total: int, sample: int, keep_full: bool) -> None:
    """Raises ValueError unless `sample` of `total` dims can be drawn, and more than the full one where it is kept."""
    least = min(2, total) if keep_full else 1
    if not least <= sample <= total:
        raise ValueError(
            f"nesting.sample={sample} must be in {least}..{total} dims drawn per step"
            f"{' (nesting.keep_full counts as one of them)' if keep_full else ''}, or 0 for all of them"
        )


def draw_weights(key: jax.Array, nesting: Nesting, sample: int, keep_full: bool) -> jax.Array:
    """Weights (G,) of a random subset of `sample` dims: zero for the others, and the expectation is nesting.weights.

    The dims are drawn without replacement, each weight divided by the probability that its dim is drawn. With
    `keep_full` the full dim is always among them.

    Raises:
      ValueError: as `check_sample`.
    """
    check_sample(len(nesting), sample, keep_full)
    drawn, among = (sample - 1, len(nesting) - 1) if keep_full else (sample, len(nesting))
    rank_G = jax.random.permutation(key, among)
    weight_G = jnp.where(rank_G < drawn, among / max(drawn, 1), 0.0)
    if keep_full:
        weight_G = jnp.append(weight_G, 1.0)
    return weight_G * jnp.asarray(nesting.weights)


def truncate(z: jax.Array, dim: int, normalize: bool = True) -> jax.Array:
    """The first `dim` features of z (..., D), then scaled to unit L2 norm (in this order: MRL, appendix C).

    A zero vector stays zero. The norm is computed in float32, whatever the dtype of z.

    Raises:
      ValueError: if dim is not in 1..D.
    """
    if not 1 <= dim <= z.shape[-1]:
        raise ValueError(f"dim={dim} is not in 1..{z.shape[-1]}, the size of the embedding")
    z = z[..., :dim]
    if not normalize:
        return z
    squared = jnp.sum(jnp.square(z.astype(jnp.float32)), axis=-1, keepdims=True)
    return (z * jax.lax.rsqrt(jnp.where(squared > 0, squared, 1.0))).astype(z.dtype)
