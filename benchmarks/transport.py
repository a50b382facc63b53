r"""How fast the push-pull solver is, against other libraries on the same problem and to the same truth.

**The problem** ``push_pull``: ``n`` downstream rows between 50 safe-anchor rows and ``m = n`` harmful rows, clustered
unit vectors of low rank; epsilon .1, push strength .5 and the tau at which the weights have an effective sample size
of .9. That tau is found once, in float64, outside all timing, and given to every solver. ``single`` is one transport
from the solved weights to the ``m`` harmful rows.

**The rule** is the same for all: ``w ∝ u·exp(−G / tau)`` with ``G = (1 − λ)·f_pull − λ·f_push``. For other libraries
an outer loop calls the library's own solver, warm-started by the library's own means, with a limit on its inner
iterations from a small set; each library is timed at its own best limit.

**The goal**: a solver stops when it measures itself a stationarity within its tolerance. Then, outside the timing and
in float64, what is true is found: the L1 column error of both plans at the final weights (the larger one is reported),
and the stationarity of those weights with potentials solved to 1e-9. Both must be at most 1e-4. A solver that misses
this is run again with a tighter tolerance until it does, and timed there; one that never does is timed by the
one trial that came nearest, and its row says ``reached: false``.

**The published recipe** ``unrolled`` (softmax logits, Adam, 10 × 10 log-domain iterations in float32, the sharp
objective of Eq. 6 differentiated through the iterations) has no tau and no point to stop at, so it is compared at
equal objective: the sharp objective of its weights is evaluated in float64, tau is lowered (outside the timing) until
sotune's solution has a sharp objective at most as high, and sotune is timed at that tau, to the same goal as above:
the row ``sotune_equal_objective``. If no tau gets there, that is printed. Its step size is not published: .1 here.

Every timing begins at the representations, cost matrix included, and is the median of interleaved runs: all solvers
once, then all again. Just-in-time compilation (OTT) is left out. Peak memory is measured apart, in a fresh process for
each solver, above the inputs. How the libraries are used:

- POT: ``ot.sinkhorn(..., warmstart=...)``. Its scalings hold the marginals, so the row scaling it starts from is
  remade for the new weights: ``log u = f / epsilon + log w``. In ``single`` it stops by its ``stopThr``, an L2 norm
  that it looks at in every tenth iteration.
- GeomLoss: ``geomloss.ot.solve`` takes no start and heeds no tolerance, only a number of annealed iterations.
- OTT: ``Sinkhorn`` with ``init=``, compiled; on the CPU alone.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import math
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sotune.transport import (
    CosineCost,
    column_error,
    extend_potential,
)
from sotune.weights import learn_weights
from transport_problem import (
    EPSILON,
    GOAL,
    N_ANCHOR,
    Answer,
    Case,
    Clusters,
    Judge,
    ProblemName,
    Sets,
    Setting,
    Task,
    Verdict,
    learn,
    make_sets,
    solver_settings,
    spearman,
    uniform,
)
from transport_solvers import UNROLLED, Contender, contenders

SLACK = 1.3  # a trial run that takes longer than this times the best so far is given up
QUICK_ONCE_SECONDS = 10.0
SCALE_SHAPE = (5000, 384)
SCALE_MEMORY = 3 << 29
SCALE_EXACT_ROWS = 40_000


# --- Measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tuned:
    """A solver at the setting that it is timed at."""

    contender: Contender
    setting: Setting
    answer: Answer
    verdict: Verdict
    task: Task
    name: str
    trial_seconds: float

    @property
    def succeeded(self) -> bool:
        """Whether it stopped by its own rule, within the goal."""
        return self.answer.finished and self.verdict.reached


@dataclass(frozen=True)
class Effort:
    """How hard to measure.

    Attributes:
        repeats: Timed runs.
        max_seconds: A trial run that is not done by then is stopped.
        once_seconds: A solver whose trial run takes longer is not run again: its trial is its time.
        memory: Whether to measure memory.
    """

    repeats: int
    max_seconds: float
    once_seconds: float
    memory: bool


class Clock:
    """What seconds are of: the wall clock, or of the processor, on a machine that does other work too."""

    read: Callable[[], float] = staticmethod(time.perf_counter)


def timed(contender: Contender, task: Task, setting: Setting, deadline: float = math.inf) -> tuple[Answer, float]:
    """Runs a solver once."""
    gc.collect()
    start, latest = Clock.read(), time.perf_counter() + deadline
    answer = contender.solve(task, setting, latest)
    if task.sets.downstream.is_cuda:
        torch.cuda.synchronize()
    return answer, Clock.read() - start


def warm_up(contender: Contender, case: Case, problem: ProblemName, setting: Setting) -> None:
    """Solves a small problem, so that libraries load what they load late."""
    task = Task(make_sets(replace(case, n=200, m=200)), problem, 1.0, uniform(200, case.device))
    contender.solve(task, setting, time.perf_counter() + 1)


def tune(
    contender: Contender, task: Task, judge: Judge, max_seconds: float, ladders: Sequence[Sequence[Setting]]
) -> Tuned:
    """Finds the fastest setting at which a solver reaches the goal, or the one at which it comes nearest."""
    best: Tuned | None = None
    for ladder in ladders:
        for setting in ladder:
            limit = SLACK * best.trial_seconds if best and best.verdict.reached else max_seconds
            if contender.name.startswith("ott"):
                timed(contender, task, setting, limit)  # compiles
            answer, seconds = timed(contender, task, setting, limit)
            verdict = judge.judge(task.problem, answer, task.tau)
            if best is None or _rank(verdict, seconds) < _rank(best.verdict, best.trial_seconds):
                best = Tuned(contender, setting, answer, verdict, task, contender.name, seconds)
            if verdict.reached or seconds > limit:
                break
    assert best is not None
    return best


def _rank(verdict: Verdict, seconds: float) -> tuple[float, float]:
    return (0.0, seconds) if verdict.reached else (verdict.miss, seconds)


def match_unrolled(unrolled: Tuned, judge: Judge, max_seconds: float) -> Tuned | None:
    """Returns sotune at the largest tau (of a geometric grid) with a sharp objective at most the recipe's."""
    wanted = unrolled.verdict.sharp_objective
    ours, task = contenders()["sotune"], unrolled.task
    lowest, end = math.inf, time.perf_counter() + max_seconds
    for step in range(24):
        lower = replace(task, tau=task.tau * 0.8**step)
        answer, seconds = timed(ours, lower, Setting(GOAL))
        sharp = judge.judge("push_pull", answer, lower.tau).sharp_objective
        if wanted is None or sharp is None:
            return None
        say(f"    tau {lower.tau:.4f}: sharp objective {sharp:.6f}, the recipe's {wanted:.6f}, {seconds:.2f} s")
        if sharp <= wanted:
            ladders = ours.ladders("push_pull")
            return replace(tune(ours, lower, judge, max_seconds, ladders), name="sotune_equal_objective")
        if sharp >= lowest or time.perf_counter() > end:
            return None
        lowest = sharp
    return None


def time_interleaved(entries: Sequence[Tuned], effort: Effort) -> list[list[float]]:
    """Returns the seconds of the runs of each solver; all run once, then all again."""
    seconds: list[list[float]] = [[] for _ in entries]
    for _ in range(effort.repeats):
        for entry, runs in zip(entries, seconds, strict=True):
            if entry.trial_seconds <= effort.once_seconds and (entry.succeeded or entry.contender is UNROLLED):
                runs.append(timed(entry.contender, entry.task, entry.setting)[1])
    return [runs or [entry.trial_seconds] for entry, runs in zip(entries, seconds, strict=True)]


def measure_memory(entry: Tuned, case: Case) -> int | None:
    """Returns the peak of memory above the inputs, in bytes, of one run in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (
        sender,
        entry.contender.name,
        case,
        entry.task.problem,
        entry.task.tau,
        entry.task.masses.cpu().numpy(),
    )
    child = context.Process(target=_report_memory, args=(*arguments, entry.setting))
    child.start()
    sender.close()
    try:
        return int(receiver.recv())
    except EOFError:  # the child was killed, most likely for want of memory
        return None
    finally:
        child.join()


def _report_memory(
    sender: Connection, name: str, case: Case, problem: ProblemName, tau: float, masses: Any, setting: Setting
) -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    contender = contenders()[name]
    warm_up(contender, case, problem, setting)
    task = Task(make_sets(case), problem, tau, torch.from_numpy(masses).to(case.device))
    gc.collect()
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        contender.solve(task, setting, math.inf)
        sender.send(torch.cuda.max_memory_allocated() - before)
        return
    reset_peak()
    before = resident_bytes("VmRSS")
    contender.solve(task, setting, math.inf)
    sender.send(max(0, resident_bytes("VmHWM") - before))


def reset_peak() -> None:
    """Sets the process's peak of memory back to what it holds now, where the system allows that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def resident_bytes(field: Literal["VmRSS", "VmHWM"]) -> int:
    """Returns what the process holds in memory, or its peak, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free_bytes(device: str) -> int:
    """Returns how much memory is free."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


# --- One case ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """One problem at one size, with those who solve it.

    Attributes:
        case: The size.
        problem: The problem.
        names: The solvers.
        tune_at: A smaller size, at which each library's best number of inner iterations is found; at the size itself
            where there is none.
    """

    case: Case
    problem: ProblemName
    names: tuple[str, ...]
    tune_at: Case | None = None


def run_case(case: Case, plans: Sequence[Plan], effort: Effort) -> list[dict[str, Any]]:
    """Measures all plans of one case, which share the exact solution."""
    sets = make_sets(case)
    judge = Judge(sets)
    say(f"n = m = {case.n:,}, d = {case.d}: tau {judge.tau:.5f}; exact to 1e-8: {judge.converged}")
    rows = []
    for plan in plans:
        task = Task(sets, plan.problem, judge.tau, judge.weights)
        entries = _tune_all(plan, task, judge, effort, _best_ladders(plan, effort))
        seconds = time_interleaved(entries, effort)
        peaks = [measure_memory(entry, case) if effort.memory else None for entry in entries]
        rows += [_row(case, *found) for found in zip(entries, seconds, peaks, strict=True)]
    return rows


def _best_ladders(plan: Plan, effort: Effort) -> dict[str, list[list[Setting]]]:
    """Returns for each solver the one ladder that was best at the smaller size."""
    if plan.tune_at is None:
        return {}
    sets = make_sets(plan.tune_at)
    judge = Judge(sets)
    say(f"inner iterations tuned at n = m = {plan.tune_at.n:,}")
    task = Task(sets, plan.problem, judge.tau, judge.weights)
    found = _tune_all(replace(plan, case=plan.tune_at), task, judge, effort, {})
    return {
        entry.name: [
            ladder for ladder in entry.contender.ladders(plan.problem) if ladder[0].inner == entry.setting.inner
        ]
        for entry in found
    }


def _tune_all(
    plan: Plan, task: Task, judge: Judge, effort: Effort, ladders: Mapping[str, list[list[Setting]]]
) -> list[Tuned]:
    entries = []
    for name in plan.names:
        contender = contenders()[name]
        reason = _obstacle(contender, plan)
        if reason:
            say(f"  {plan.problem}: {name} left out: {reason}")
            continue
        try:
            warm_up(contender, plan.case, plan.problem, contender.ladders(plan.problem)[0][0])
            allowed = ladders.get(name) or contender.ladders(plan.problem)
            entry = tune(contender, task, judge, effort.max_seconds, allowed)
        except Exception as error:  # noqa: BLE001 (a library that fails is a finding, not the end)
            say(f"  {plan.problem}: {name} failed: {type(error).__name__}: {error}")
            continue
        say(
            f"  {plan.problem}: {name} {entry.trial_seconds:.3f} s, tolerance {entry.setting.tolerance:.0e}, inner "
            f"{entry.setting.inner}, finished: {entry.answer.finished}, misses the goal by {entry.verdict.miss:.2g}"
        )
        entries.append(entry)
        if contender is UNROLLED:
            matched = match_unrolled(entry, judge, effort.max_seconds)
            if matched is None:
                say("  no tau gives sotune a sharp objective as low as the recipe's")
            entries += [] if matched is None else [matched]
    return entries


def _obstacle(contender: Contender, plan: Plan) -> str | None:
    case = plan.case
    if case.device not in contender.devices:
        return f"does not run on {case.device} here"
    needed, free = contender.matrices * case.n * case.m, free_bytes(case.device)
    if needed > 0.9 * free:
        return f"needs about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
    return contender.missing()


def _row(case: Case, entry: Tuned, seconds: list[float], peak: int | None) -> dict[str, Any]:
    verdict = asdict(entry.verdict)
    return {
        "solver": entry.name,
        "problem": entry.task.problem,
        "n": case.n,
        "m": case.m,
        "d": case.d,
        "iterations": entry.answer.iterations,
        "seconds": statistics.median(seconds),
        "peak_bytes": peak,
        **{key: value if value is None or math.isfinite(value) else None for key, value in verdict.items()},
        "reached": entry.succeeded,
        "tolerance": entry.setting.tolerance,
        "inner": entry.setting.inner,
        "tau": entry.task.tau,
        "runs": seconds,
        "threads": torch.get_num_threads(),
        "device": case.device,
    }


def say(text: str) -> None:
    """Prints progress."""
    print(text, file=sys.stderr, flush=True)


# --- The large problem ------------------------------------------------------------------------------------------------


def measure_scale(sizes: Sequence[int], exact_rows: int) -> list[dict[str, Any]]:
    """Weighs many rows from a mapped file, each size in a fresh process, and compares streamed with exact weights."""
    m, d = SCALE_SHAPE
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            path = Path(folder) / f"{n}.bin"
            write_rows(path, n, d)
            rows.append(_in_child(_weigh_file, path, n, m, d))
            path.unlink()
            print(_scale_line(rows[-1]), flush=True)
    rows.append(_in_child(_compare_streamed, exact_rows, m, d))
    print(f"streamed against exact at n = {exact_rows:,}: Spearman {rows[-1]['spearman']:.6f}", flush=True)
    return rows


def _in_child(target: Callable[..., None], *arguments: Any) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=target, args=(sender, *arguments))
    child.start()
    sender.close()
    try:
        row: dict[str, Any] = receiver.recv()
    except EOFError:
        sys.exit(f"the measuring process ended with code {child.exitcode}, most likely for want of memory")
    finally:
        child.join()
    return row


def write_rows(path: Path, n: int, d: int) -> None:
    """Writes downstream rows as float32, a block at a time, the harmful tenth spread over the file."""
    clusters = Clusters(d, seed=0)
    with path.open("wb") as file:
        for start in range(0, n, 50_000):
            block = clusters.downstream(min(50_000, n - start))
            file.write(block.numpy().tobytes())
            say(f"  wrote {start + len(block):,} of {n:,} rows")


def _weigh_file(sender: Connection, path: Path, n: int, m: int, d: int) -> None:
    _set_threads()
    clusters = Clusters(d, seed=0)
    anchor, harmful = clusters.draw(N_ANCHOR, 0, 30), clusters.draw(m, 28, 40)
    downstream = torch.from_file(str(path), shared=True, size=n * d, dtype=torch.float32).view(n, d)
    settings = solver_settings(max_memory=SCALE_MEMORY)
    reset_peak()
    start = time.perf_counter()
    learned = learn_weights(downstream, anchor, harmful, settings, on_pass=functools.partial(_watch, start))
    seconds = time.perf_counter() - start
    peak = resident_bytes("VmHWM")
    say("\n  checking the column errors afresh")
    errors = [
        _fresh_error(downstream, y, reference.g, learned.weights)
        for y, reference in zip((anchor, harmful), learned.references, strict=True)
    ]
    sender.send(
        {
            "solver": "sotune_streamed" if learned.n_passes else "sotune",
            "problem": "push_pull",
            "n": n,
            "m": m,
            "d": d,
            "iterations": learned.n_sinkhorn_iters,
            "seconds": seconds,
            "peak_bytes": peak,
            "peak_is": "resident bytes of the whole process",
            "column_error": max(errors),
            "reported_error": max(learned.marginal_error(side) for side in ("pull", "push")),
            "objective": learned.objective,
            "stationarity": learned.stationarity,
            "effective_sample_size": learned.effective_sample_size,
            "passes": learned.n_passes,
            "tau": learned.tau,
            "reached": learned.converged,
            "threads": torch.get_num_threads(),
            "device": "cpu",
        }
    )


def _fresh_error(x: Tensor, y: Tensor, g: Tensor, weights: Tensor) -> float:
    cost, b = CosineCost(x, y), uniform(len(y), "cpu", x.dtype)
    f = extend_potential(cost, g, b, EPSILON)
    return column_error(cost, f, g, weights.to(x.dtype), b, EPSILON)


def _watch(start: float, number: int) -> Callable[[int, int], None]:
    told = 0.0

    def on_rows(done: int, total: int) -> None:
        nonlocal told
        now = time.perf_counter()
        if now - told > 1 or done == total:
            told = now
            print(f"\r  {now - start:6.0f} s  pass {number}: {done:,} of {total:,} rows", end="", file=sys.stderr)

    return on_rows


def _compare_streamed(sender: Connection, n: int, m: int, d: int) -> None:
    _set_threads()
    clusters = Clusters(d, seed=0)
    sets = Sets(clusters.downstream(n), clusters.draw(N_ANCHOR, 0, 30), clusters.draw(m, 28, 40))
    memory = n * (m + N_ANCHOR) * 4
    start = time.perf_counter()
    exact = learn(sets, solver_settings(max_memory=2 * memory))
    middle = time.perf_counter()
    streamed = learn(sets, solver_settings(max_memory=memory // 10))
    seconds = time.perf_counter() - middle
    sender.send(
        {
            "solver": "sotune_streamed_small",
            "problem": "push_pull",
            "n": n,
            "m": m,
            "d": d,
            "iterations": streamed.n_sinkhorn_iters,
            "seconds": seconds,
            "seconds_exact": middle - start,
            "peak_bytes": None,
            "column_error": max(streamed.marginal_error(side) for side in ("pull", "push")),
            "objective": streamed.objective,
            "objective_exact": exact.objective,
            "spearman": spearman(streamed.weights, exact.weights),
            "passes": streamed.n_passes,
            "reached": streamed.converged and exact.converged,
            "threads": torch.get_num_threads(),
            "device": "cpu",
        }
    )


def _scale_line(row: dict[str, Any]) -> str:
    return (
        f"n = {row['n']:,}: {row['seconds']:.1f} s, {row['passes']} passes, column error {row['column_error']:.1e} "
        f"(reported {row['reported_error']:.1e}), peak {row['peak_bytes'] / 2**30:.2f} GiB resident, "
        f"converged: {row['reached']}"
    )


# --- Results ----------------------------------------------------------------------------------------------------------


def print_tables(rows: Sequence[dict[str, Any]]) -> None:
    """Prints a table for each problem and size, fastest first, with ratios to sotune."""
    for key in dict.fromkeys((row["problem"], row["d"], row["n"], row["m"]) for row in rows):
        group = [row for row in rows if (row["problem"], row["d"], row["n"], row["m"]) == key]
        problem, d, n, m = key
        print(f"\n{problem}, n = {n:,}, m = {m:,}, d = {d}, {group[0]['threads']} threads, {group[0]['device']}")
        print(
            f"{'solver':28}{'seconds':>9}{'× ours':>8}{'peak MB':>9}{'kernels':>8}{'iters':>7}{'inner':>6}{'tol':>9}"
            f"{'column':>10}{'station.':>10}{'objective':>12}{'sharp':>11}{'Spearman':>10}"
        )
        ours = next((row["seconds"] for row in group if row["solver"] == "sotune"), None)
        for row in sorted(group, key=lambda row: row["seconds"]):
            print(_line(row, ours))


def _line(row: dict[str, Any], ours: float | None) -> str:
    ratio = "" if ours is None else f"{row['seconds'] / ours:.2f}"
    peak = row["peak_bytes"]
    megabytes, kernels = ("", "") if peak is None else (f"{peak / 1e6:.0f}", f"{peak / (4 * row['n'] * row['m']):.2f}")
    return (
        f"{row['solver']:28}{row['seconds']:9.3f}{ratio:>8}{megabytes:>9}{kernels:>8}{row['iterations']:7}"
        f"{row['inner'] or '':>6}{row['tolerance']:9.0e}{_number(row['column_error'], '.1e'):>10}"
        f"{_number(row['stationarity'], '.1e'):>10}{_number(row['objective'], '.7f'):>12}"
        f"{_number(row['sharp_objective'], '.6f'):>11}{_number(row['spearman'], '.6f'):>10}"
        + ("" if row["reached"] else "  goal not reached")
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws seconds against n on logarithmic axes, a panel for each problem and width, slopes in the legend."""
    try:
        import matplotlib

        matplotlib.use("svg")
        from matplotlib import pyplot
    except ImportError as error:
        say(f"no plot: {error}")
        return
    panels = list(dict.fromkeys((row["problem"], row["d"]) for row in rows))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(7 * len(panels), 6), squeeze=False)
    for axis, (problem, d) in zip(axes[0], panels, strict=True):
        group = [row for row in rows if (row["problem"], row["d"]) == (problem, d)]
        for name in dict.fromkeys(row["solver"] for row in group):
            points = sorted((row["n"], row["seconds"]) for row in group if row["solver"] == name)
            style = {"linewidth": 3, "color": "black"} if name == "sotune" else {"linewidth": 1}
            axis.loglog(*zip(*points, strict=True), marker="o", label=f"{name} {_slope(points)}", **style)
        axis.set(title=f"{problem}, d = {d}", xlabel="n = m", ylabel="seconds, median")
        axis.grid(visible=True, which="both", alpha=0.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def _slope(points: Sequence[tuple[int, float]]) -> str:
    if len(points) < 2:
        return ""
    slope = statistics.linear_regression([math.log(n) for n, _ in points], [math.log(s) for _, s in points]).slope
    return f"(slope {slope:.2f})"


def write(rows: Sequence[dict[str, Any]], path: Path | None) -> None:
    """Writes what is known so far."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


# --- The command line -------------------------------------------------------------------------------------------------


def quick_plans(device: str, names: Sequence[str]) -> list[Plan]:
    """Returns the small selection: the recipe at 2,000, ours and POT at 5,000."""
    small, large = Case(2000, 2000, 384, device), Case(5000, 5000, 384, device)
    both = tuple(name for name in names if name == "sotune" or name.startswith("pot_"))
    recipe = tuple(name for name in names if name in ("sotune", "unrolled"))
    return [
        Plan(small, "push_pull", recipe),
        Plan(large, "push_pull", both, tune_at=small),
        Plan(large, "single", both, tune_at=small),
    ]


def full_plans(sizes: Sequence[int], dims: Sequence[int], device: str, names: Sequence[str]) -> list[Plan]:
    """Returns all problems at all sizes."""
    known = contenders()
    return [
        Plan(Case(n, n, d, device), problem, tuple(name for name in names if problem in known[name].problems))
        for d in dims
        for n in sizes
        for problem in ("push_pull", "single")
    ]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the recipe at 2,000² and POT at 5,000², d = 384")
    parser.add_argument("--json", type=Path, help="where to write the results; written after each size")
    parser.add_argument("--sizes", type=_numbers, default=[1000, 2000, 5000, 10_000, 20_000])
    parser.add_argument("--dims", type=_numbers, default=[384, 4096])
    parser.add_argument("--repeats", type=int, help="timed runs of each solver; 5, or 3 with --quick")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--solvers", help="names, or beginnings of names, separated by commas; all by default")
    parser.add_argument("--max-seconds", type=float, default=300, help="longest trial run of one solver")
    parser.add_argument("--cpu-seconds", action="store_true", help="count the processor's seconds, of all threads")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--plot", type=Path, help="where to write an SVG of seconds against n")
    parser.add_argument("--scale", action="store_true", help="only the large problem, streamed from a mapped file")
    parser.add_argument("--scale-sizes", type=_numbers, default=[500_000, 1_000_000])
    parser.add_argument("--scale-exact-rows", type=int, default=SCALE_EXACT_ROWS)
    return parser.parse_args()


def _pin_threads(threads: int) -> None:
    """Starts the script again where the thread count is not set: libraries read it when they are imported."""
    wanted = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    wanted["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "")
    if threads == 1:
        wanted["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    if any(os.environ.get(name, "") != value for name, value in wanted.items()):
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    _set_threads()


def _set_threads() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def _selected(wanted: str | None) -> list[str]:
    names = list(contenders())
    if wanted is None:
        return names
    parts = wanted.split(",")
    unknown = [part for part in parts if not any(name.startswith(part) for name in names)]
    if unknown:
        sys.exit(f"unknown solvers {unknown}; known: {', '.join(names)}")
    return [name for name in names if name in parts or any(name.startswith(p) for p in parts if p not in names)]


def _by_case(plans: Sequence[Plan]) -> Iterator[tuple[Case, list[Plan]]]:
    for case in dict.fromkeys(plan.case for plan in plans):
        yield case, [plan for plan in plans if plan.case == case]


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    args = _parse()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here; nothing was measured")
        sys.exit(2)
    _pin_threads(args.threads)
    if args.cpu_seconds:
        Clock.read = staticmethod(time.process_time)
    if args.scale:
        write(measure_scale(args.scale_sizes, args.scale_exact_rows), args.json)
        return
    names = _selected(args.solvers)
    plans = quick_plans(args.device, names) if args.quick else full_plans(args.sizes, args.dims, args.device, names)
    repeats = args.repeats or (3 if args.quick else 5)
    once_seconds = QUICK_ONCE_SECONDS if args.quick else args.max_seconds
    effort = Effort(repeats, args.max_seconds, once_seconds, memory=not args.no_memory)
    rows: list[dict[str, Any]] = []
    for case, of_case in _by_case(plans):
        rows += run_case(case, of_case, effort)
        write(rows, args.json)
    print_tables(rows)
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
