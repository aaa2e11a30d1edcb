"""The size of training images as a function of the step: small ones first, for speed (progressive resizing)."""

from collections.abc import Sequence

import numpy as np

PLACE = "{size}"  # where the size stands in a transform


def sizes(points: Sequence[tuple[float, int]], multiple: int, total_steps: int) -> tuple[tuple[int, int], ...]:
    """When which size begins, as (first step, size) pairs; the first of them begins at step 0.

    Args:
      points: (fraction of the run, size in pixels); between two points the size lies on the line between theirs, before
        the first and after the last it is constant.
      multiple: sizes are rounded to multiples of this, so that few of them occur.
      total_steps: of the run.

    Raises:
      ValueError: for fractions that do not increase within 0..1, or for a size below the multiple.
    """
    fractions, values = [p[0] for p in points], [p[1] for p in points]
    if not points or sorted(set(fractions)) != fractions or not 0 <= fractions[0] <= fractions[-1] <= 1:
        raise ValueError(
            f"data.resolution.points={tuple(points)}: (fraction, size) pairs, the fractions rising in 0..1"
        )
    if multiple < 1 or min(values) < multiple:
        raise ValueError(f"data.resolution.multiple={multiple} must be positive and at most the size {min(values)}")
    line = np.interp(np.arange(total_steps) / total_steps, fractions, values)
    size = (np.floor(line / multiple + 0.5) * multiple).astype(int)
    first = [0, *(np.flatnonzero(np.diff(size)) + 1).tolist()]
    return tuple((step, int(size[step])) for step in first)


def specs(
    ops: str, points: Sequence[tuple[float, int]], multiple: int, total_steps: int
) -> tuple[tuple[int, str], ...]:
    """The transforms `ops` with the size put in place of "{size}", as (first step, transform) pairs; see `sizes`.

    Raises:
      ValueError: also where there is a place for the size and no points, or points and no place.
    """
    if (PLACE in ops) != bool(points):
        raise ValueError(
            f"data.train_ops={ops!r} and data.resolution.points={tuple(points)}: give both, {PLACE} in the transform "
            "where the size belongs and points that say what it is, or neither"
        )
    if not points:
        return ((0, ops),)
    return tuple((step, ops.replace(PLACE, str(size))) for step, size in sizes(points, multiple, total_steps))
