"""Ray as the engine: pieces of work on the machines of a cluster, or on the cores of this one.

The process that the user started stays main: it reads, solves, writes and speaks. It hands out pieces (a shard of texts
to encode, some prompts to answer, a training, a cell of a comparison) and writes what comes back, in the bytes that it
would have computed itself. A piece whose worker dies is done again by another.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from sotune.errors import ConfigError, SotuneError
from sotune.settings import EngineSettings

Piece = TypeVar("Piece")
Found = TypeVar("Found")

_TRIES = 3  # more deaths of one piece's workers are no accident
_AHEAD = 2  # pieces that a worker has before it, so that it never waits for main


class Engine(Protocol):
    """Computes pieces of work elsewhere."""

    def map(self, make: Callable[[], Callable[[Piece], Found]], pieces: Iterable[Piece]) -> Iterator[tuple[int, Found]]:
        """Yields what came of each piece with its number, as they are done.

        Args:
            make: Called once in each worker; returns what does a piece, a model with all its weights for example.
            pieces: What is to be done; taken only a little ahead.

        Raises:
            SotuneError: A piece failed, or its workers died again and again.
        """
        ...

    def each(self, work: Callable[[Piece], Found], pieces: Iterable[Piece]) -> Iterator[tuple[int, Found]]:
        """Yields the same of pieces that each have a process of their own."""
        ...


def engine_of(settings: EngineSettings, *, threads: int | None, device: str) -> Engine | None:
    """Returns the engine that the settings name; ``None`` where this process does all.

    Args:
        settings: Names it.
        threads: CPU threads of a worker, on which the last bits of its results depend; ``None``: those of this process.
        device: Of the models, as the settings name it; auto is a GPU where the cluster has some.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address, or none of its machines will do.
    """
    return None if settings.engine == "local" else _ray_engine(settings.ray_address, threads, device)


@functools.cache
def _ray_engine(address: str | None, threads: int | None, device: str) -> RayEngine:
    return RayEngine(address, threads=threads, device=device)


class RayEngine:
    """Workers of a Ray cluster.

    Args:
        address: Of the cluster; ``None``: one on this machine, started now, unless one is running already.
        threads: CPU threads of a worker; see `engine_of`.
        device: Of the models; see `engine_of`.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address, or none of its machines will do.
    """

    def __init__(self, address: str | None, *, threads: int | None, device: str) -> None:
        self._ray = _joined_cluster(address)
        total = self._ray.cluster_resources()
        on_gpu = device.startswith("cuda") or (device == "auto" and total.get("GPU", 0) > 0)
        self._threads = threads = threads or (1 if on_gpu else _own_threads())
        self._needs: dict[str, Any] = {"num_cpus": threads, "num_gpus": int(on_gpu)}
        self._workers, self._numbers = list[Any](), itertools.count()
        self.n_workers = min(int(total.get("CPU", 0) // threads), int(total.get("GPU", 0)) if on_gpu else 1 << 30)
        if self.n_workers < 1:
            raise ConfigError(
                f"the cluster has no worker with {threads} CPUs{' and a GPU' if on_gpu else ''}: it has "
                f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs; lower threads, or add machines"
            )

    def map(self, make: Callable[[], Callable[[Piece], Found]], pieces: Iterable[Piece]) -> Iterator[tuple[int, Found]]:
        """Yields what came of each piece with its number, as they are done; see `Engine`."""
        number, made = next(self._numbers), [self._ray.put(make)]

        def submit(slot: int, piece: Piece) -> Any:
            return self._hired(slot + 1)[slot].do.remote(number, made, piece)

        yield from self._as_done(submit, pieces)

    def each(self, work: Callable[[Piece], Found], pieces: Iterable[Piece]) -> Iterator[tuple[int, Found]]:
        """Yields the same of pieces that each have a process of their own; see `Engine`."""
        while self._workers:  # they hold what the pieces need
            self._ray.kill(self._workers.pop())
        # A process that measures its own memory must not hold another's.
        task = self._ray.remote(max_calls=1, max_retries=_TRIES, **self._needs)(_work_alone)
        yield from self._as_done(lambda _, piece: task.remote(work, piece, self._threads), pieces)

    def _hired(self, n: int) -> list[Any]:
        """Returns n workers at least, those that are there already first: a model takes long to load."""
        worker = self._ray.remote(max_restarts=_TRIES, max_task_retries=_TRIES, **self._needs)(_Worker)
        self._workers += [worker.remote(self._threads) for _ in range(n - len(self._workers))]
        return self._workers

    def _as_done(self, submit: Callable[[int, Piece], Any], pieces: Iterable[Piece]) -> Iterator[tuple[int, Any]]:
        """Yields results as they come; a piece goes to the slot, one for each worker, that has the fewest before it."""
        waiting = dict[Any, tuple[int, int]]()
        for number, piece in enumerate(pieces):
            if len(waiting) >= _AHEAD * self.n_workers:
                yield self._next(waiting)
            load = Counter(slot for _, slot in waiting.values())
            slot = min(range(self.n_workers), key=load.__getitem__)
            waiting[submit(slot, piece)] = number, slot
        while waiting:
            yield self._next(waiting)

    def _next(self, waiting: dict[Any, tuple[int, int]]) -> tuple[int, Any]:
        (done, *_), _ = self._ray.wait(list(waiting))
        number, _ = waiting.pop(done)
        try:
            return number, self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, SotuneError):
                raise cause from None
            raise
        except self._ray.exceptions.RayError as error:
            raise SotuneError(
                f"a piece of work was lost {_TRIES + 1} times with the worker that did it, probably because memory ran "
                f"out ({type(error).__name__}); what is finished is kept: run again with smaller batches"
            ) from error


class _Worker:
    """A process of the cluster that does one piece after the other."""

    def __init__(self, threads: int) -> None:
        _set_up(threads)
        self._number = -1
        self._work: Callable[[Any], Any] | None = None

    def do(self, number: int, made: Sequence[Any], piece: Any) -> Any:
        """Does a piece of the work of that number, which is made when its first piece comes."""
        if number != self._number:
            import ray

            self._work = None  # two models may not fit
            self._work, self._number = ray.get(made[0])(), number
        return self._work(piece)  # type: ignore[misc]  # by now there is some


def _work_alone(work: Callable[[Any], Any], piece: Any, threads: int) -> Any:
    _set_up(threads)
    return work(piece)


def _own_threads() -> int:
    import torch

    return torch.get_num_threads()


def _set_up(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _joined_cluster(address: str | None) -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is told to anyone
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError("engine ray needs Ray; install it with: pip install 'sotune[ray]'") from None
    if not ray.is_initialized():
        try:
            ray.init(address, include_dashboard=False, configure_logging=False, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise ConfigError(f"no Ray cluster was found at {address!r} ({error}); check ray_address") from error
    return ray
