"""Checks of options whose value is one of a few names."""

from collections.abc import Collection

from mrl_jax.choices import nearest


def choose(field: str, value: str, choices: Collection[str]) -> None:
    """Raises ValueError unless `value` is one of `choices`; the message lists them and names the nearest."""
    if value not in choices:
        raise ValueError(f"{field}={value!r} is not one of {list(choices)}{nearest(value, choices)}")
