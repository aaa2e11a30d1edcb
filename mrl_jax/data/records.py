"""One example as bytes, and back: a line of JSON, then the bytes of the image.

The format is data only (no pickle), and says itself how to read it. Line: {"image": [32, 32, 1], "label": 7} for a raw
uint8 array in row-major order; {"image": null, "label": 7} where the rest is an encoded file (JPEG, PNG, ...). An
example of several classes has them in a list: "label": [7, 3]. An example with text has its token ids in the fields
"tokens" and, where it has a second text, "tokens_2"; "negatives" are lists of them, of texts that do not belong to the
first. One without an image is the first line alone.
"""

import json
import numbers
from typing import Any

import numpy as np

Record = dict[str, Any]
# What a record may have besides image and label, an integer each: the camera (vendor, shop, style) that took it; the
# template and the medium of a face.
FIELDS = ("camera", "template", "media")


def encode(record: Record) -> bytes:
    """A record {"image": uint8 (H, W, C) or encoded bytes, any other field: int or ints} as bytes.

    One of texts alone, {"tokens", ...}, may have "negatives": several of ints.

    Raises:
      ValueError: where the image is neither, or another field is neither an integer nor a list of them.
    """
    if "image" not in record and "tokens" in record:
        texts = {name: _integers(name, value) for name, value in record.items() if name != "negatives"}
        if "negatives" in record:
            texts["negatives"] = [_integers("negatives", tokens) for tokens in record["negatives"]]
        return json.dumps(texts).encode() + b"\n"
    image = record["image"]
    if isinstance(image, bytes):
        shape, body = None, image
    elif isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3:
        shape, body = image.shape, image.tobytes()
    else:
        what = f"{image.dtype} array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"record field 'image' is a {what}: give a uint8 array (H, W, C), or an encoded file as bytes")
    header: dict[str, Any] = {"image": shape}
    for name, value in record.items():
        if name != "image":
            header[name] = _integers(name, value)
    return json.dumps(header).encode() + b"\n" + body


def _integers(name: str, value: Any) -> int | list[int]:
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, list | tuple | np.ndarray) and all(isinstance(v, numbers.Integral) for v in value):
        return [int(v) for v in value]
    raise ValueError(f"record field {name!r} is {value!r}: every field but the image must be an integer, or several")


def decode(data: bytes) -> Record:
    """The record that `encode` wrote; a raw image is a read-only view of `data`.

    Raises:
      ValueError: where the bytes are no such record, or fewer or more than its header says.
    """
    end = data.find(b"\n")
    try:
        record = json.loads(data[: max(end, 0)])
        if "tokens" in record and "image" not in record and end == len(data) - 1:
            return record
        shape = record["image"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{len(data)} bytes that are no record: the first line must be a JSON header") from error
    if shape is None:
        record["image"] = data[end + 1 :]
        return record
    size = len(data) - end - 1
    if size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"record holds {size} bytes for an image of shape {tuple(shape)}")
    record["image"] = np.frombuffer(data, np.uint8, offset=end + 1).reshape(shape)
    return record
