"""Icons of six fonts, tested on a font never seen: the whole of MRL in about two minutes on two CPU cores.

python -m mrl_jax.train --config=configs/quickstart.py --workdir=runs/q
python -m mrl_jax.train --config=configs/quickstart.py:ff=8 --workdir=runs/q_ff8
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting


def get_config(mode: str = "mrl") -> ml_collections.ConfigDict:
    c = defaults.default()
    c.total_steps, c.batch_size = 600, 128
    c.model = {**defaults.resnet("18"), "stem": "small", "base_width": 16}
    c.nesting.dims = Nesting.halving(128, 4).dims
    c.data.train_ops = "decode|random_shift(4)"
    c.optim.lr = 3e-3
    c.schedule.warmup_steps = 50
    return defaults.apply_mode(c, mode, size=32, channels=1)
