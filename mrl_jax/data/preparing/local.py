"""Many calls of a function on the processes of one machine."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any


def each(function: Callable[..., Any], calls: Sequence[tuple], workers: int) -> Iterator[Any]:
    """Yields function(*call) of every call, in the order of completion.

    Workers end with this process, however it ends; and when the iterator is closed, or a worker raises.

    Raises:
      RuntimeError: where a worker dies.
    """
    if min(workers, len(calls)) <= 1:
        for call in calls:
            yield function(*call)
        return
    others = multiprocessing.active_children()
    # Spawned, since forks of a process with threads may hang.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(calls)), mp_context=spawn, initializer=_begin_worker)
    waiting = iter(calls)
    running = set()
    try:
        while True:
            # Few at a time, so that an error does not wait for a long queue.
            running |= {pool.submit(function, *call) for _, call in zip(range(2 * workers - len(running)), waiting)}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker process died, for want of memory perhaps: run the same command again, with fewer --workers"
        ) from error
    except BaseException:
        # What they write is of no use any more; it stays without the name of a shard.
        for process in set(multiprocessing.active_children()) - set(others):
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the parent, whose end is ours
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
