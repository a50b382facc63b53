"""Methods side by side: the same data, model, number of optimizer steps, prompts and judges for all of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sotune.comparison.measure import Bench, Budget, Cell, Draw, cell_folder
from sotune.comparison.variants import Variant, change_method, find_method
from sotune.errors import ConfigError, DataError, SotuneError
from sotune.mixing import prompt_key
from sotune.monitoring import Monitor, Silent

if TYPE_CHECKING:
    from sotune.evaluation import Judge, JudgeRole

Redraw = Callable[[Draw, Variant], Draw]
Results = list[tuple[Draw, dict[str, Cell]]]


@dataclass(frozen=True)
class PlannedCell:
    """One cell, and whether it has to be measured."""

    draw: str
    variant: str
    status: Literal["done", "to do"]


class Comparison:
    """Runs variants of methods on draws under one budget.

    Args:
        methods: Names of methods, ``base`` among them or not, or variants.
        budget: What they share.
        judges: Role to judge, or what gives a draw its judges.
        folder: Where cells and results go.
        monitor: Is told of progress.
        workers: Cells measured at once, each in a process of its own; 1 measures in this one.
        threads: CPU threads of each; results are byte-identical for one number, whatever the number of workers.
        redraw: Gives a draw the references that a variant weighs with.

    Raises:
        ConfigError: A method is unknown, or lacks a setting that is to be changed, or two variants share a name.
    """

    def __init__(
        self,
        methods: Sequence[str | Variant],
        budget: Budget,
        judges: Mapping[JudgeRole, Judge] | Callable[[Draw], Mapping[JudgeRole, Judge]],
        *,
        folder: Path,
        monitor: Monitor,
        workers: int = 1,
        threads: int = 1,
        redraw: Redraw = lambda draw, _variant: draw,
    ) -> None:
        self._variants = [Variant.plain(method) if isinstance(method, str) else method for method in methods]
        _check_variants(self._variants)
        self._budget, self._judges, self._folder, self._monitor = budget, judges, folder, monitor
        self._workers, self._threads, self._redraw = workers, threads, redraw

    def run(self, draws: Iterable[Draw]) -> Results:
        """Does every cell that is not done; returns all, by draw and variant.

        Raises:
            DataError: A prompt of a draw stands in two of its roles.
        """
        results: Results = [(draw, {}) for draw in draws]
        saved: dict[tuple[int, str], Cell] = {}
        to_do: list[tuple[int, Variant, Draw]] = []
        for place, (draw, _) in enumerate(results):
            for variant, drawn in self._redrawn(draw):
                cell = self._bench(drawn, variant).saved(drawn)
                if cell is None:
                    to_do.append((place, variant, drawn))
                else:
                    saved[place, variant.name] = cell
        pace = _Pace(self._monitor, n_done=len(saved), n_all=len(saved) + len(to_do))
        measure = self._in_this_process if self._workers == 1 else self._in_workers
        for (place, variant, _), cell in measure(to_do, pace):
            saved[place, variant.name] = cell
        return [(d, {v.name: saved[place, v.name] for v in self._variants}) for place, (d, _) in enumerate(results)]

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
                done = started and self._is_done(self._redraw(draw_of(name), variant), variant)
                planned.append(PlannedCell(name, variant.name, "done" if done else "to do"))
        return planned

    def _is_done(self, draw: Draw, variant: Variant) -> bool:
        return self._bench(draw, variant).saved(draw) is not None

    def _redrawn(self, draw: Draw) -> Iterator[tuple[Variant, Draw]]:
        check_disjoint(draw)
        for variant in self._variants:
            drawn = self._redraw(draw, variant)
            if drawn is not draw:
                check_disjoint(drawn)
            yield variant, drawn

    def _bench(self, draw: Draw, variant: Variant, monitor: Monitor | None = None) -> Bench:
        judges = self._judges(draw) if callable(self._judges) else self._judges
        return Bench(variant, self._budget, judges, folder=self._folder, monitor=monitor or Silent())

    def _in_this_process(
        self, cells: Sequence[tuple[int, Variant, Draw]], pace: _Pace
    ) -> Iterator[tuple[tuple[int, Variant, Draw], Cell]]:
        with _threads(self._threads):
            for job in cells:
                _, variant, draw = job
                pace.begin(f"{draw.name}: {variant.name}")
                yield job, self._bench(draw, variant, self._monitor).cell(draw)
                pace.end()

    def _in_workers(
        self, cells: Sequence[tuple[int, Variant, Draw]], pace: _Pace
    ) -> Iterator[tuple[tuple[int, Variant, Draw], Cell]]:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor, as_completed
        from concurrent.futures.process import BrokenProcessPool

        if not cells:
            return
        context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads half alive
        with ProcessPoolExecutor(self._workers, context, _start_worker, (self._threads,)) as pool:
            jobs = {
                pool.submit(_measure, self._bench(draw, variant), draw): (n, variant, draw)
                for n, variant, draw in cells
            }
            pace.begin(f"{min(self._workers, len(jobs))} cells at once")
            try:
                for future in as_completed(jobs):
                    cell, (_, variant, draw) = future.result(), jobs[future]
                    pace.end()
                    pace.begin(f"{draw.name}: {variant.name} is done")
                    yield jobs[future], cell
            except BrokenProcessPool:
                raise SotuneError(
                    "a worker process was killed, most likely for want of memory; what is done stays: run again with "
                    "fewer workers"
                ) from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


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

    def end(self) -> None:
        self._n_done += 1
        self._n_measured += 1


def check_disjoint(draw: Draw) -> None:
    """Checks that no prompt of a draw stands in two of: evaluation, downstream, references, safety pairs.

    Prompts are the same when they differ only in case and white space.

    Raises:
        DataError: One does.
    """
    roles = {
        "the evaluation": {prompt_key(prompt.messages): prompt.id for prompt in draw.prompts},
        "the downstream rows": {prompt_key(record.prompt): record.id for record in draw.downstream},
        "the safe anchor": {prompt_key(record.prompt): record.id for record in draw.safe_anchor},
        "the harmful reference": {prompt_key(record.prompt): record.id for record in draw.harmful_reference},
        "the safety pairs": {prompt_key(record.prompt): record.id for record in draw.safety_pairs},
    }
    names = list(roles)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            both = roles[first].keys() & roles[second].keys()
            if both:
                ids = sorted(roles[first][key] for key in both)[:5]
                raise DataError(
                    f"{draw.name}: {len(both)} prompts stand both in {first} (ids {ids}) and in {second}, so that the "
                    f"model would be tested or weighed on what it is trained on; remove them from one"
                )


def _check_variants(variants: Sequence[Variant]) -> None:
    folders: dict[str, str] = {}
    for variant in variants:
        change_method(find_method(variant.method), variant.changes)  # a fault is an error now, not after hours
        folder = cell_folder(Path(), "", variant.name).name
        if folder in folders:
            raise ConfigError(
                f"two methods are called {folders[folder]!r} and {variant.name!r}, which share a folder; give one "
                f"another name"
            )
        folders[folder] = variant.name


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    """Computes with so many threads meanwhile."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _start_worker(threads: int) -> None:
    """Prepares a worker process: its threads, and that it ends when its parent is killed."""
    import multiprocessing
    import os
    import threading
    from multiprocessing.connection import wait

    import torch

    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _measure(bench: Bench, draw: Draw) -> Cell:
    return bench.cell(draw)
