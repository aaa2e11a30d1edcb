"""Time and temporary memory of the nested masked-language-model loss, value and gradient, against one plain tied head.

python -m experiments.benchmarks.masked_lm --out=experiments/results/benchmark_masked_lm_cpu.json

Calls are interleaved in one run; ratios are medians over rounds. All see the features at the masked places alone. The
plain head multiplies by the table of token embeddings (V, D), or by its transpose, kept as such.
"""

import argparse
import sys

import jax
import jax.numpy as jnp

from experiments.benchmarks import interleaved
from experiments.provenance import provenance
from mrl_jax import losses
from mrl_jax.nesting import Nesting
from mrl_jax.writers import write_json


def plain(z_BxSxD, table_VxD, bias_V, targets_BxS):
    """Softmax cross-entropy at full dim, as one would write it."""
    logits = jnp.einsum("bsd,vd->bsv", z_BxSxD, table_VxD).astype(jnp.float32) + bias_V[None, None]
    own = jnp.take_along_axis(logits, targets_BxS[:, :, None], axis=2)[:, :, 0]
    return (jax.nn.logsumexp(logits, axis=2) - own).mean()


def measure(texts: int, slots: int, vocabulary: int, nesting: Nesting, dtype: str, repeats: int) -> dict:
    """Of `interleaved.measure`."""
    keys = jax.random.split(jax.random.key(0), 3)
    z = jax.random.normal(keys[0], (texts, slots, nesting.full), dtype)
    table = (0.02 * jax.random.normal(keys[1], (vocabulary, nesting.full))).astype(dtype)
    arguments = z, table, jnp.zeros(vocabulary), jax.random.randint(keys[2], (texts, slots), 0, vocabulary)

    def ours(z, table, bias, targets):
        return losses.nested_masked_lm(z, table.T, bias, targets, nesting).total

    def transposed(z, kernel, bias, targets):
        return plain(z, kernel.T, bias, targets)

    found = {
        "ours": (ours, arguments),
        "plain": (plain, arguments),
        "plain, kernel (D, V)": (transposed, (z, jnp.array(table.T), *arguments[2:])),
    }
    return interleaved.measure(found, (0, 1, 2), repeats)


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--slots", type=int, default=20, help="masked places of a text")
    parser.add_argument("--vocabulary", type=int, default=30522)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    own = parser.parse_args()
    nesting = Nesting.halving(768, 12)
    found = measure(own.texts, own.slots, own.vocabulary, nesting, own.dtype, own.repeats)
    print("  ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    setting = {k: v for k, v in vars(own).items() if k != "out"} | {"dims": nesting.dims}
    if own.out:
        command = " ".join(["python -m experiments.benchmarks.masked_lm", *sys.argv[1:]])
        write_json(own.out, {"command": command, **provenance(), **setting, **found})


if __name__ == "__main__":
    main()
