"""Methods side by side: the same data, model, number of optimizer steps, prompts and judges for all of them."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

import torch

from sotune import processes
from sotune.cluster import Engine
from sotune.comparison.cells import Cell, CellPlan, cell_folder
from sotune.comparison.draw import Draw, DrawFiles, check_disjoint
from sotune.comparison.variant import Variant
from sotune.errors import ConfigError, SotuneError
from sotune.monitoring import Monitor, Silent, quiet_libraries
from sotune.stopping import Stopped, stops_handled
from sotune.wording import counted

CELLS = "cells"
"""What main calls the other processes for."""
Redraw = Callable[[Draw, Variant], Draw]


@dataclass(frozen=True)
class PlannedCell:
    """One cell, and whether it has to be measured."""

    draw: str
    variant: str
    status: Literal["done", "to do"]


@dataclass(frozen=True)
class Failure:
    """A cell that could not be measured.

    Attributes:
        draw: Its draw.
        variant: Its variant.
        error: What went wrong.
    """

    draw: str
    variant: str
    error: str


@dataclass(frozen=True)
class DrawResults:
    """What was found on one draw.

    Attributes:
        draw: The draw's files.
        cells: By variant; those that failed are missing.
    """

    draw: DrawFiles
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Results:
    """What a comparison found.

    Attributes:
        draws: By draw.
        failures: The cells that could not be measured.
    """

    draws: Sequence[DrawResults]
    failures: Sequence[Failure]


class Comparison:
    """Runs variants of methods on draws under one budget.

    Args:
        methods: Names of methods, ``base`` among them or not, or variants.
        shared: Settings of `sotune run` that all cells share.
        folder: Where draws, cells and results go.
        monitor: Receives progress.
        workers: Cells measured at once, each in a process of its own; 1 measures in this one, or in those that were
            launched together.
        threads: CPU threads of each; results are byte-identical for one number, whatever the number of workers.
        redraw: Gives a draw the references that a variant weighs with.
        engine: Measures the cells elsewhere, each in a process of its own.

    Raises:
        ConfigError: A method is unknown, or two variants share a name.
    """

    def __init__(
        self,
        methods: Sequence[str | Variant],
        shared: Mapping[str, Any] | Callable[[Draw], Mapping[str, Any]],
        *,
        folder: Path,
        monitor: Monitor,
        workers: int = 1,
        threads: int = 1,
        redraw: Redraw = lambda draw, _variant: draw,
        engine: Engine | None = None,
    ) -> None:
        self._variants = [Variant.plain(method) if isinstance(method, str) else method for method in methods]
        _check_variants(self._variants)
        self._shared, self._monitor = shared, monitor
        self._folder = folder.resolve()  # cells are run folders, which are usable from any working folder
        self._workers, self._threads, self._redraw, self._engine = workers, threads, redraw, engine

    def run(self, draws: Iterable[Draw]) -> Results:
        """Does every cell that is not done; a cell that fails does not keep the others from being measured.

        Raises:
            ConfigError: The settings of a cell are wrong.
            DataError: A prompt of a draw stands in two of its roles.
        """
        plans = [plan for draw in draws for plan in self._plans(draw)]
        found: dict[int, Cell | Failure] = {}
        for place, plan in enumerate(plans):
            saved = plan.saved()
            if saved is not None:
                found[place] = saved
        to_do = [(place, plan) for place, plan in enumerate(plans) if place not in found]
        pace = _Pace(self._monitor, n_done=len(found), n_all=len(plans))
        if self._engine is not None:
            found |= dict(self._elsewhere(self._engine, to_do, pace))
        elif self._workers > 1:
            found |= dict(self._in_workers(to_do, pace))
        else:
            found |= processes.together(CELLS, lambda: self._shared_out(to_do, pace), to_do)
        return _by_draw(plans, found)

    def plan(self, names: Iterable[str], draw_of: Callable[[str], Draw]) -> list[PlannedCell]:
        """Tells which cells are done. A draw is made only where a result lies there that may be of it.

        Args:
            names: Of the draws.
            draw_of: Makes a draw by its name.
        """
        planned = []
        for name in names:
            for variant in self._variants:
                started = cell_folder(self._folder, name, variant.name).is_dir()
                done = started and self._plan(draw_of(name), variant, write=False).saved() is not None
                planned.append(PlannedCell(name, variant.name, "done" if done else "to do"))
        return planned

    def _plans(self, draw: Draw) -> Iterator[CellPlan]:
        check_disjoint(draw)
        for variant in self._variants:
            yield self._plan(draw, variant)

    def _plan(self, draw: Draw, variant: Variant, *, write: bool = True) -> CellPlan:
        drawn, folder = self._redraw(draw, variant), self._folder / "draws" / draw.name
        own = None
        if drawn is not draw:
            check_disjoint(drawn)
            own = folder / cell_folder(self._folder, draw.name, variant.name).name
        shared = self._shared(draw) if callable(self._shared) else self._shared
        files = DrawFiles.of(drawn, folder, own=own, write=write)
        return CellPlan(variant, files, shared, self._folder, self._threads)

    def _shared_out(self, cells: Sequence[tuple[int, CellPlan]], pace: _Pace) -> dict[int, Cell | Failure]:
        """Measures this process's share of the cells, each on its own, and returns what all processes found."""
        mine, seen = processes.share(cells), processes.own_gpu() if torch.cuda.is_available() else {}
        with processes.alone(), _environment(seen):
            # Trainer on its own takes the first GPU that it sees.
            measured = dict(self._in_workers(mine, pace) if seen else self._in_this_process(mine, pace))
        return {place: found for part in processes.gather(measured) for place, found in part.items()}

    def help(self, cells: Sequence[tuple[int, CellPlan]]) -> None:
        """Measures this process's share of the cells that main has laid out."""
        self._shared_out(cells, _Pace(Silent(), n_done=0, n_all=len(cells)))

    def _in_this_process(
        self, cells: Sequence[tuple[int, CellPlan]], pace: _Pace
    ) -> Iterator[tuple[int, Cell | Failure]]:
        with _threads(self._threads):
            for place, plan in cells:
                pace.begin(f"{plan.draw.name}: {plan.variant.name}")
                yield place, _measure(plan, self._monitor)
                pace.end()

    def _elsewhere(
        self, engine: Engine, cells: Sequence[tuple[int, CellPlan]], pace: _Pace
    ) -> Iterator[tuple[int, Cell | Failure]]:
        pace.begin("cells on the cluster")
        measured = engine.each(functools.partial(_measure, monitor=Silent()), [plan for _, plan in cells])
        for number, found in measured:
            yield pace.note(found, *cells[number])

    def _in_workers(self, cells: Sequence[tuple[int, CellPlan]], pace: _Pace) -> Iterator[tuple[int, Cell | Failure]]:
        if not cells:
            return
        context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads half alive
        with ProcessPoolExecutor(self._workers, context, _start_worker, (self._threads,)) as pool:
            jobs = {pool.submit(_measure_in_worker, plan): (place, plan) for place, plan in cells}
            pace.begin(f"{counted(min(self._workers, len(jobs)), 'cell')} at once")
            try:
                for future in as_completed(jobs):
                    yield pace.note(future.result(), *jobs[future])
            except Stopped:
                for child in multiprocessing.active_children():
                    child.terminate()  # each leaves a checkpoint first
                raise
            except BrokenProcessPool:
                raise SotuneError(
                    "a worker process was killed, probably because memory ran out; finished cells are kept: run "
                    "again with fewer workers"
                ) from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _by_draw(plans: Sequence[CellPlan], found: Mapping[int, Cell | Failure]) -> Results:
    draws: dict[str, DrawResults] = {}
    failures = []
    for place, plan in enumerate(plans):
        results, one = draws.setdefault(plan.draw.name, DrawResults(plan.draw, {})), found[place]
        if isinstance(one, Failure):
            failures.append(one)
        else:
            results.cells[plan.variant.name] = one
    return Results(list(draws.values()), failures)


class _Pace:
    """Tells how many cells are done and how long the rest may take, at the pace so far."""

    def __init__(self, monitor: Monitor, *, n_done: int, n_all: int) -> None:
        self._monitor, self._n_done, self._n_all = monitor, n_done, n_all
        self._n_measured, self._started = 0, time.monotonic()

    def begin(self, what: str) -> None:
        left = self._n_all - self._n_done
        hint = ""
        if self._n_measured:
            seconds = (time.monotonic() - self._started) / self._n_measured * left
            hint = f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"
        self._monitor.stage(f"[{self._n_done}/{self._n_all}{hint}] {what}", "running")

    def note(self, found: Cell | Failure, place: int, plan: CellPlan) -> tuple[int, Cell | Failure]:
        """Tells that one of several cells that are measured at once has ended."""
        self.end()
        self.begin(f"{plan.draw.name}: {plan.variant.name} {'failed' if isinstance(found, Failure) else 'is done'}")
        return place, found

    def end(self) -> None:
        self._n_done += 1
        self._n_measured += 1


def _check_variants(variants: Sequence[Variant]) -> None:
    folders: dict[str, str] = {}
    for variant in variants:
        variant.found_method()  # a fault is an error now, not after hours
        folder = cell_folder(Path(), "", variant.name).name
        if folder in folders:
            raise ConfigError(
                f"two methods are called {folders[folder]!r} and {variant.name!r}, which share a folder; give one "
                f"another name"
            )
        folders[folder] = variant.name


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Gives child processes an environment with some changes."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    """Computes with so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _start_worker(threads: int) -> None:
    """Prepares a worker process: its threads, what stops it, and that it ends when its parent is killed."""
    torch.set_num_threads(threads)
    quiet_libraries()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent passes it on
    signal.signal(signal.SIGTERM, lambda signum, _: _told_to_stop.append(signum))  # a worker that idles lives on
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


_told_to_stop: list[int] = []
"""The signals that a worker process got; from the first on it measures nothing more."""


def _measure_in_worker(plan: CellPlan) -> Cell | Failure:
    """Measures a cell unless this process was told to stop, before or meanwhile.

    Raises:
        Stopped: It was.
    """
    try:
        with stops_handled(repeated=False):  # a scheduler tells all processes, and the parent passes it on
            if _told_to_stop:
                raise Stopped(_told_to_stop[0])
            return _measure(plan, Silent())
    except Stopped as stopped:
        _told_to_stop.append(stopped.signum)
        raise


def _measure(plan: CellPlan, monitor: Monitor) -> Cell | Failure:
    try:
        return plan.measure(monitor)
    except Exception as error:  # noqa: BLE001 - whatever ends one cell, out of memory too, leaves the others to be measured
        what = str(error) if isinstance(error, SotuneError) else f"{type(error).__name__}: {error}"
        return Failure(plan.draw.name, plan.variant.name, what)
