"""Ray as the engine: pieces of work on the machines of a cluster, or on the cores of this one.

The process that the user started stays main: it reads, solves, writes and speaks. It hands out pieces (a shard of texts
to encode, some prompts to answer, a training, a cell of a comparison) and writes what comes back, in the bytes that it
would have computed itself. A piece whose worker dies is done again by another.
"""

from __future__ import annotations

import functools
import itertools
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from sotune import processes
from sotune.errors import ConfigError, SotuneError
from sotune.monitoring import quiet_libraries
from sotune.settings import EngineSettings

Piece = TypeVar("Piece")
Found = TypeVar("Found")

_TRIES = 3  # more deaths of one piece's workers are no accident
_GRACE_SECONDS = 15.0
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

    def at_once(self, work: Callable[[], Found], n: int) -> Found:
        """Does one work in n processes that compute together, as under torchrun; returns what the first found.

        Raises:
            ConfigError: There are not so many workers.
            SotuneError: The work failed in any of them, or they died again and again.
        """
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
        self._dismiss()
        # A process that measures its own memory must not hold another's.
        task = self._ray.remote(max_calls=1, max_retries=_TRIES, **self._needs)(_work_alone)
        yield from self._as_done(lambda _, piece: task.remote(work, piece, self._threads), pieces)

    def at_once(self, work: Callable[[], Found], n: int) -> Found:
        """Does one work in n processes that compute together; see `Engine`.

        When one dies, all are started again: the work has to go on from what it wrote.
        """
        if n > self.n_workers:
            raise ConfigError(
                f"the cluster has room for {self.n_workers} workers at once. Got {n}; lower ray_train_workers"
            )
        self._dismiss()
        for _ in range(_TRIES + 1):
            try:
                found: Found = self._try_at_once(work, n)
                return found
            except self._ray.exceptions.RayTaskError as error:
                raise _own_cause(error) from None
            except self._ray.exceptions.RayError as error:
                lost = error
        raise _lost(lost) from lost

    def _try_at_once(self, work: Callable[[], Any], n: int) -> Any:
        from ray.util.placement_group import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        needs = {"CPU": self._threads, **({"GPU": 1} if self._needs["num_gpus"] else {})}
        group = placement_group([needs] * n, strategy="PACK")
        member = self._ray.remote(
            **self._needs, scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=group)
        )(_Member)
        try:
            members = [member.remote(self._threads) for _ in range(n)]
            address = self._ray.get(members[0].address.remote())
            return self._together([one.do.remote(work, rank, n, address) for rank, one in enumerate(members)])
        finally:
            remove_placement_group(group)  # ends them, too

    def _together(self, all_found: list[Any]) -> Any:
        """Returns what the first of several processes found; that of them all which failed says why, if one does."""
        done, running = list[Any](), all_found
        while running and not self._failures(done):
            done, running = self._ray.wait(running)
        if not self._failures(done):
            return self._ray.get(all_found[0])
        # One that lost another knows less than that other, which may be about to say it.
        done, _ = self._ray.wait(all_found, num_returns=len(all_found), timeout=_GRACE_SECONDS)
        raise min(self._failures(done), key=self._telling)

    def _failures(self, done: Sequence[Any]) -> list[Exception]:
        failures = list[Exception]()
        for one in done:
            try:
                self._ray.get(one)
            except self._ray.exceptions.RayError as error:
                failures.append(error)
        return failures

    def _telling(self, failure: Exception) -> int:
        """Orders failures by what they tell: an error of ours, a death, anything else."""
        if isinstance(getattr(failure, "cause", None), SotuneError):
            return 0
        return 2 if isinstance(failure, self._ray.exceptions.RayTaskError) else 1

    def _dismiss(self) -> None:
        while self._workers:  # they hold what others need
            self._ray.kill(self._workers.pop())

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
            raise _own_cause(error) from None
        except self._ray.exceptions.RayError as error:
            raise _lost(error) from error


def _own_cause(error: Any) -> Exception:
    """Returns what a piece of work failed with: an error of ours as itself."""
    return error.cause if isinstance(error.cause, SotuneError) else error


def _lost(error: Exception) -> SotuneError:
    return SotuneError(
        f"a piece of work was lost {_TRIES + 1} times with the worker that did it, probably because memory ran "
        f"out ({type(error).__name__}); what is finished is kept: run again with smaller batches"
    )


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


class _Member:
    """One of several processes that compute together, as torchrun would start them."""

    def __init__(self, threads: int) -> None:
        _set_up(threads)

    def address(self) -> tuple[str, int]:
        """Returns where the others find this process."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def do(self, work: Callable[[], Any], rank: int, n: int, address: tuple[str, int]) -> Any:
        """Does the work of that rank."""
        # Ray shows each its own GPU alone: none has neighbors.
        told = {"RANK": rank, "WORLD_SIZE": n, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        told |= {"MASTER_ADDR": address[0], "MASTER_PORT": address[1]}  # type: ignore[dict-item]
        os.environ.update({name: str(value) for name, value in told.items()})
        with processes.watched():
            return work()


def _work_alone(work: Callable[[Any], Any], piece: Any, threads: int) -> Any:
    _set_up(threads)
    return work(piece)


def _own_threads() -> int:
    import torch

    return torch.get_num_threads()


def _set_up(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    quiet_libraries()


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
