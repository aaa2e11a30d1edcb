"""The input pipeline against its floor: 500-pixel JPEGs to random 224-pixel crops, mirrored, in batches.

python experiments/benchmarks/input.py --out=experiments/results/benchmark_input_cpu.json

The pictures are made here: clouds of several sizes and a little noise, 500 x 375, quality 90. Times are of one core:
processor seconds of this process, the ways in turn, medians over rounds. The floor is the same library (simplejpeg)
decoding the whole of each picture, and nothing else. Decoders that are not installed are left out.
"""

import argparse
import functools
import importlib
import io
import os
import platform
import subprocess
import sys
import time

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from mrl_jax.data import cropping, images, jpeg, pipeline, sampling, sources
from mrl_jax.writers import write_json

OPS = "decode(3)|random_resized_crop(224)|flip_lr"
# ResNet-50 at 224 pixels, forward and backward, nine heads: 12.7 TFLOP counted for 1024 images of 160 pixels.
GFLOP_PER_IMAGE = 12.7e3 / 1024 * (224 / 160) ** 2
PEAK_TFLOPS = 989  # of one H200, bf16, dense (data sheet)
ASSUMED_MFU = (0.1, 0.2, 0.3)
CORES = 16


def photo(seed, size=(375, 500)):
    """A picture with the spectrum of a photograph, roughly: (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    height, width = size if seed % 3 else size[::-1]
    image = np.full((height, width, 3), 128, np.float32)
    for cells, amplitude in ((4, 50), (16, 25), (64, 14), (250, 7)):
        noise = rng.normal(0, amplitude, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + rng.normal(0, 4, (height, width, 1)), 0, 255).astype(np.uint8)


def files(count):
    """So many JPEG files, as bytes."""

    def encode(image):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=90)
        return file.getvalue()

    return [encode(photo(seed)) for seed in range(count)]


class Records:
    """Many records of the few files."""

    def __init__(self, found):
        """Keeps the files."""
        self.found = found

    def __len__(self):
        """As many as ImageNet has."""
        return 1_281_167

    def __getitem__(self, index):
        """The record at `index`."""
        return {"image": self.found[index % len(self.found)], "label": index % 1000}


def _pillow(data):
    with Image.open(io.BytesIO(data)) as file:
        return np.asarray(file.convert("RGB"))


def decoders():
    """Functions from bytes to RGB arrays, by library."""
    found = {"pillow": _pillow, "simplejpeg": lambda data: simplejpeg.decode_jpeg(data, "RGB")}
    found["opencv"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if jpeg._library() is not None:
        found["turbojpeg, whole"] = lambda data: jpeg._library().decode(data, (0, 0, *jpeg.size(data)[::-1]), 1, 3)[0]
    for name, module, function in (
        ("imagecodecs", "imagecodecs", lambda m, data: m.jpeg8_decode(data)),
        ("kornia_rs", "kornia_rs.io", lambda m, data: m.decode_image_jpegturbo(data, "rgb")),
    ):
        try:
            found[name] = functools.partial(function, importlib.import_module(module))
        except ImportError:
            print(f"{name} is not installed: left out", flush=True)
    return found


def old_way(data, rng):
    """Whole decode and antialiased resize by Pillow, as a plain script would do it."""
    image = _pillow(data)
    box = cropping.random_box(*image.shape[:2], rng)
    return np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR, box=box))


def ways(found, batch_size):
    """What is timed: functions of the round, each over `batch_size` images."""
    transform = images.parse(OPS)
    source = sources.Source("benchmark", "train", Records(found), 1000)
    # What a worker calls for each step; here without a thread, whose time would fall to another way.
    examples = pipeline._Examples(source, transform, 0)
    order = sampling.Natural(len(source.records))
    batch = pipeline._TrainBatch(((0, examples),), batch_size, range(batch_size), 0, order)

    def each(function):
        def run(step):
            for i in range(batch_size):
                function(found[(step * batch_size + i) % len(found)], np.random.default_rng(step * batch_size + i))

        return run

    timed = {f"decode, {name}": each(lambda data, _, f=f: f(data)) for name, f in decoders().items()}
    timed["pipeline"] = batch
    timed["transform, fused"] = each(lambda data, rng: transform({"image": data}, rng))
    timed["transform, whole decode"] = each(lambda data, rng: transform.finish(transform.begin({"image": data}), rng))
    timed["decode and resize, pillow"] = each(old_way)
    return timed


def measure(found, batch_size, rounds):
    """Milliseconds of processor time per image, rounds by way."""
    timed = ways(found, batch_size)
    cv2.setNumThreads(1)
    milliseconds = {name: [] for name in timed}
    for step in range(rounds + 1):
        for name, run in timed.items():
            began = time.process_time()
            run(step)
            if step:
                milliseconds[name].append(1e3 * (time.process_time() - began) / batch_size)
    return milliseconds


def transport(found, batch_size, count=40):
    """Milliseconds of the main process per batch that a worker hands over in shared memory; to make one is free."""
    source = sources.Source("benchmark", "train", Records(found), 1000)
    batches = pipeline.train_batches(source, _Made(), batch_size=batch_size, seed=0, workers=1)
    for _ in range(10):
        next(batches)
    began = time.process_time()
    for _ in range(count):
        next(batches)
    spent = 1e3 * (time.process_time() - began) / count
    batches.close()
    return round(spent, 2)


class _Made:
    """A transform that costs nothing: what is left is the way of the batch from the worker."""

    image = np.zeros((224, 224, 3), np.uint8)

    def __call__(self, record, rng):
        return record | {"image": self.image}

    def begin(self, record):
        return record | {"image": self.image}

    def finish(self, record, rng):
        return record


def extrapolate(per_core):
    """Cores for one accelerator, by the share of its peak that the step is assumed to reach."""
    rows = []
    for mfu in ASSUMED_MFU:
        step = PEAK_TFLOPS * 1e3 * mfu / GFLOP_PER_IMAGE
        rows.append(
            {
                "assumed_mfu": mfu,
                "assumed_images_per_second_of_the_step": round(step),
                "cores_needed": round(step / per_core, 1),
                f"share_that_{CORES}_cores_feed": round(CORES * per_core / step, 2),
            }
        )
    return rows


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch_size", type=int, default=64)
    options = parser.parse_args()
    found = files(48)
    milliseconds = measure(found, options.batch_size, options.rounds)
    floor = np.array(milliseconds["decode, simplejpeg"])
    table = {
        name: {"ms": round(float(np.median(v)), 3), "to_floor": round(float(np.median(np.array(v) / floor)), 3)}
        for name, v in milliseconds.items()
    }
    per_core = 1e3 / table["pipeline"]["ms"]
    for name, row in table.items():
        print(f"{name:28s} {row['ms']:7.3f} ms  {row['to_floor']:.2f} x the floor", flush=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    record = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit,
        "hardware": f"{os.cpu_count()} cores ({platform.machine()})",
        "images": {"count": len(found), "mean_kilobytes": round(sum(map(len, found)) / len(found) / 1e3, 1)},
        "rounds": options.rounds,
        "transform": OPS,
        "parts_decoded": jpeg._library() is not None,
        "processor_ms_per_image": table,
        "images_per_second_per_core": round(per_core),
        "batch_megabytes": round(options.batch_size * 224 * 224 * 3 / 1e6, 1),
        "transport_ms_per_batch": transport(found, options.batch_size),
        "gflop_per_image": round(GFLOP_PER_IMAGE, 1),
        "one_h200": extrapolate(per_core),
    }
    print({name: record[name] for name in ("images_per_second_per_core", "transport_ms_per_batch", "one_h200")})
    if options.out:
        write_json(options.out, record)


if __name__ == "__main__":
    main()
