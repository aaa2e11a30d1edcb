"""Several independent minimisations by L-BFGS that share every pass over the data.

Each runs SciPy's L-BFGS-B in a thread of its own and stops when it has converged. Whenever all that still run have
asked for a value and gradient, one call answers all of them.
"""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Evaluate = Callable[[Mapping[int, np.ndarray]], Mapping[int, tuple[float, np.ndarray]]]


class Minimum(NamedTuple):
    """Where a minimisation ended: the point, its value, the iterations, and whether it converged."""

    x: np.ndarray
    value: float
    iterations: int
    converged: bool


def minimise(
    evaluate: Evaluate, starts: Sequence[np.ndarray], *, max_iterations: int, tolerance: float
) -> list[Minimum]:
    """Minimises one function from each of `starts`.

    Args:
      evaluate: from {number of the function: point (float64)} to {number: (value, gradient)}.
      starts: a point each.
      max_iterations: of each.
      tolerance: a minimisation ends when a step lowers its value by less than this share of it.
    """
    import scipy.optimize  # slow to import, and few runs need it

    requests: queue.Queue = queue.Queue()
    replies: list[queue.Queue] = [queue.Queue() for _ in starts]

    def ask(g: int, x: np.ndarray) -> tuple[float, np.ndarray]:
        requests.put((g, x.copy()))
        reply = replies[g].get()
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def run(g: int) -> None:
        options = {"maxiter": max_iterations, "maxfun": 2 * max_iterations, "ftol": tolerance, "gtol": 0.0}
        try:
            found = scipy.optimize.minimize(
                lambda x: ask(g, x), starts[g], jac=True, method="L-BFGS-B", options=options
            )
            requests.put((g, Minimum(found.x, float(found.fun), int(found.nit), found.status != 1)))
        except BaseException as error:
            requests.put((g, error))

    for g in range(len(starts)):
        threading.Thread(target=run, args=(g,), name=f"lbfgs-{g}", daemon=True).start()
    return _serve(evaluate, requests, replies)


def _serve(evaluate: Evaluate, requests: queue.Queue, replies: list[queue.Queue]) -> list[Minimum]:
    """Answers the threads until each has ended; an error of `evaluate` ends them and is raised here."""
    ended: dict[int, Minimum | BaseException] = {}
    while len(ended) < len(replies):
        points = {}
        while len(points) + len(ended) < len(replies):
            g, message = requests.get()
            if isinstance(message, np.ndarray):
                points[g] = message
            else:
                ended[g] = message
        try:
            answers = evaluate(dict(sorted(points.items()))) if points else {}
        except BaseException as error:
            answers = dict.fromkeys(points, error)
        for g in points:
            replies[g].put(answers[g])
    for result in ended.values():
        if isinstance(result, BaseException):
            raise result
    return [ended[g] for g in range(len(replies))]
