"""Features on a mesh whose neighbours belong to different processes, as on TPU pods: ADDRESS PROCESS."""

import functools
import sys

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from mrl_jax import sharding
from mrl_jax.data import images, pipeline, sources
from mrl_jax.evals.features import FeatureStore
from mrl_jax.nesting import Nesting

jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
devices = np.array(jax.devices())[[0, 2, 1, 3]].reshape(4, 1, 1)
assert [device.process_index for device in devices.flat] == [0, 1, 0, 1]
mesh = Mesh(devices, ("data", "fsdp", "model"), axis_types=(AxisType.Auto,) * 3)
source = sources.load("synthetic:size=8,classes=8,examples=14", "test", data_dir=".")


def batches(rows):
    return pipeline.eval_batches(source, images.parse("decode"), batch_size=8, rows=rows)


def first_pixels(images):
    return images.reshape(len(images), -1)[:, :4].astype("float32")


@jax.jit
def embed(variables, batch):
    return first_pixels(batch["image"]), {}


rows = sharding.rows_of_process(8, mesh)
with jax.set_mesh(mesh):
    to_devices = functools.partial(sharding.to_devices, mesh=mesh)
    found = FeatureStore(embed, {}, lambda _: batches(rows), to_devices, None, Nesting((4,)))("test")
whole = list(batches(None))
mask = np.concatenate([batch["mask"] for batch in whole])
assert len(found.z_NxD) == 14
np.testing.assert_array_equal(found.label_N, np.concatenate([batch["label"] for batch in whole])[mask])
np.testing.assert_array_equal(found.z_NxD, np.concatenate([first_pixels(batch["image"]) for batch in whole])[mask])
print("rows and labels agree")
