"""What a conversion is asked for and what comes out of it."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Request(NamedTuple):
    """What the file cannot tell, or what is wanted other than it tells; empty values leave it to the file.

    Attributes:
      head: "mrl", "mrl_e", "ff", or "none" to leave the classifier out.
      dims: the nested dims, for a tied head.
      mean: of the pixels, per channel, of images in 0..1.
      std: likewise.
      settings: the model's `config.json`, where one came with the file.
    """

    head: str = ""
    dims: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    settings: Mapping[str, Any] = {}


class Converted(NamedTuple):
    """Weights in our terms.

    Attributes:
      variables: nested dicts of arrays.
      about: see `weights.ABOUT`, but for "source".
      notes: what was left out or assumed, a sentence each.
    """

    variables: dict[str, Any]
    about: dict[str, Any]
    notes: tuple[str, ...] = ()
