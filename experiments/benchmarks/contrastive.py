"""Time and temporary memory of the nested contrastive loss, value and gradient, against a plain one and the loop.

python -m experiments.benchmarks.contrastive --out=experiments/results/benchmark_contrastive_cpu.json

Calls are interleaved in one run; ratios are medians over rounds. The plain loss is of the full dim alone and keeps the
matrix of all pairs; the loop is one plain loss a dim. The floor counts multiply-adds: 8 B B D where the plain one needs
6 B B D, as tiles are computed again.
"""

import argparse
import sys

import jax
import jax.numpy as jnp

from experiments.benchmarks import interleaved
from experiments.provenance import provenance
from mrl_jax import losses
from mrl_jax.losses import reference
from mrl_jax.nesting import Nesting
from mrl_jax.writers import write_json

SCALE = 20.0


def plain(u_BxD, v_BxD):
    """The contrastive loss at full dim, as one would write it."""
    u_BxD, v_BxD = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (u_BxD, v_BxD))
    logits = SCALE * (u_BxD @ v_BxD.T).astype(jnp.float32)
    both = jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0)
    return (0.5 * both - jnp.diagonal(logits)).mean()


def measure(rows: int, nesting: Nesting, dtype: str, repeats: int) -> dict:
    """Of `interleaved.measure`."""
    u, noise = (jax.random.normal(jax.random.key(i), (rows, nesting.full)) for i in (0, 1))
    arguments = u.astype(dtype), (u + noise).astype(dtype)

    def ours(u, v):
        return losses.nested_contrastive(u, v, SCALE, nesting).total

    def loop(u, v):
        return reference.nested_contrastive(u, v, SCALE, nesting).total

    found = {"ours": ours, "plain": plain, "loop": loop}
    return interleaved.measure({name: (loss, arguments) for name, loss in found.items()}, (0, 1), repeats)


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    own = parser.parse_args()
    nesting = Nesting.halving(768, 12)
    found = measure(own.rows, nesting, own.dtype, own.repeats)
    print("  ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    setting = {k: v for k, v in vars(own).items() if k != "out"} | {"dims": nesting.dims}
    found |= {
        "floor_multiply_adds_to_plain": round(8 / 6, 2),
        "time_to_floor": round(found["time_to"]["plain"] * 0.75, 2),
    }
    if own.out:
        command = " ".join(["python -m experiments.benchmarks.contrastive", *sys.argv[1:]])
        write_json(own.out, {"command": command, **provenance(), **setting, **found})


if __name__ == "__main__":
    main()
