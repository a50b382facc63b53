"""One program in several processes: which of them this is, and the few ways in which they work together.

torchrun and ``accelerate launch`` start the same command several times and say in the environment who is who. The first
process, *main*, holds the run folder, writes its files, solves, and speaks to the user; it is on its own, and what it
calls knows of no others. For what is worth sharing it calls them: all then compute their part at once. In a single
process none of this happens: no group is made, and torch is not imported for it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

from sotune.errors import SotuneError
from sotune.stopping import Stopped

Found = TypeVar("Found")
Help = Callable[[Any], object]
"""What a process does when main calls; gets what main hands out."""

_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_LAUNCHED_WITH = ("ACCELERATE_", "FSDP_")  # what accelerate's launcher says of a group
_PATIENCE = timedelta(days=30)  # the others wait for as long as main solves or judges
_FAILED = "failed"
_LEFT = "left"
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 10.0


class _Word(NamedTuple):
    """What main tells the others: to help with something, or what came of all of it."""

    help: str | None = None
    payload: Any = None
    found: Any = None
    error: Exception | None = None


class _Meeting:
    """What this process knows of the others; empty while it is the only one."""

    store: Any = None  # where they leave word for each other
    hidden: Mapping[str, str] | None = None  # what the launcher said, while main leads on its own
    broken = False  # an error came up in what all do at once: nobody listens any more


def size() -> int:
    """Returns how many processes compute together now."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Returns which of them this is, counted from 0."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def is_main() -> bool:
    """Tells whether this process writes and speaks: the first of several, or the only one."""
    return rank() == 0


def share(items: Sequence[Found]) -> Sequence[Found]:
    """Returns the items that this process sees to: each ``i`` for which ``i mod N`` is its rank."""
    return items[rank() :: size()]


def own_gpu() -> dict[str, str]:
    """Returns the environment of a child that sees no GPU but this process's; nothing for a single process."""
    if size() == 1:
        return {}
    number, named = int(os.environ.get("LOCAL_RANK", "0")), os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": str(number) if named is None else named.split(",")[number]}


def gather(value: Found) -> list[Found]:
    """Returns the values of all processes, by rank; waits for all of them."""
    if size() == 1:
        return [value]
    import torch.distributed as dist

    _meet()
    found: list[Any] = [None] * size()
    dist.all_gather_object(found, value)
    return found


def barrier() -> None:
    """Waits until all processes are here."""
    gather(None)


def on_main(work: Callable[[], Found]) -> Found:
    """Does work that all need once, in main alone, and returns what it found there in every process.

    Raises:
        SotuneError: The work failed, in any process.
    """
    if size() == 1:
        return work()
    if is_main():
        word = _try(work)
        _tell(word)
    else:
        word = _hear()
    found: Found = _result(word)
    return found


def lead(work: Callable[[], Found], helps: Mapping[str, Help]) -> Found:
    """Does work in main, which the others help with whenever it calls them; see `together`.

    Args:
        work: Main does it, on its own but for what it calls the others for.
        helps: What the others do, by the name that main calls.

    Returns:
        What main found, in every process.

    Raises:
        SotuneError: The work failed, in any process.
    """
    if size() == 1:
        return work()
    if not is_main():
        while (word := _hear()).help is not None:
            helps[word.help](word.payload)
    else:
        word = _try(work, leading=True)
        if not _Meeting.broken:
            _tell(word)
    found: Found = _result(word)
    return found


def together(name: str, work: Callable[[], Found], payload: Any = None) -> Found:
    """Calls the others, where there are some, to do their part of what this process does too.

    Args:
        name: Which of the helps of `lead` they are to do.
        work: Main's own part.
        payload: What the others are told beside.
    """
    if _Meeting.hidden is None:
        return work()
    hidden = _Meeting.hidden
    os.environ.update(hidden)
    _Meeting.hidden = None
    _forget_accelerate()
    _Meeting.broken = True
    _tell(_Word(help=name, payload=payload))
    found = work()
    _Meeting.broken = False
    _hide(leading=True)
    return found


def call(name: str, work: Callable[[], object], payload: Any = None) -> None:
    """Has all processes do their part beforehand of what main then finds done; does nothing in a single one."""
    if _Meeting.hidden is not None:
        together(name, work, payload)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Makes this process one on its own meanwhile, for transformers and accelerate too."""
    hidden = _hide()
    try:
        yield
    finally:
        if hidden:
            os.environ.update(hidden)
            _forget_accelerate()


def _enter() -> None:
    """Meets the other processes; what all of them would say is said once."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP advises in every process
    _meet()
    if not is_main():
        warnings.simplefilter("ignore")  # main says the same


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Runs a command in all processes: the first that fails says why, and none of the others goes on or hangs."""
    if size() == 1:
        yield
        return
    _enter()
    number, count = rank(), size()
    threading.Thread(target=_follow, args=(number,), daemon=True).start()
    try:
        yield
        barrier()
    except BaseException as error:
        if _is_lost(error) or (isinstance(error, Stopped) and not is_main()):
            time.sleep(4 * _POLL_SECONDS)  # whoever broke the connection has the reason; main knows what is kept
        status, first = getattr(error, "exit_status", 1), True
        if not _claim(number, status):
            status, first = (_failure() or (-1, 1))[1], False
        atexit.register(_end, status, others=count - 1 if first else 0)
        if not first:
            _leave_word()
            raise SystemExit(status) from None
        if _is_lost(error):
            raise SotuneError(
                "another process ended without a word, probably because memory ran out; what is finished is kept: "
                "run again, with fewer processes on a machine"
            ) from error
        raise
    _leave()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Runs work in all processes of a group that another program started, which ends them all when one fails."""
    if size() == 1:
        yield
        return
    _enter()
    yield
    barrier()
    _leave()


def _try(work: Callable[[], Any], *, leading: bool = False) -> _Word:
    """Does work on its own and returns what came of it."""
    give_back = _keep_accelerate()
    hidden = _hide(leading=leading)
    try:
        return _Word(found=work())
    except SotuneError as error:
        return _Word(error=error)
    finally:
        _Meeting.hidden = None
        os.environ.update(hidden)
        give_back()


def _result(word: _Word) -> Any:
    if word.error is not None:
        raise word.error
    return word.found


def _hide(*, leading: bool = False) -> dict[str, str]:
    """Hides from this process that there are others; returns what says so."""
    hidden = {name: value for name, value in os.environ.items() if name in _LAUNCHED or name.startswith(_LAUNCHED_WITH)}
    if size() == 1:
        return {}
    for name in hidden:
        del os.environ[name]
    if leading:
        _Meeting.hidden = hidden
    _forget_accelerate()
    return hidden


def _forget_accelerate() -> None:
    """Makes accelerate look again at who works together; it keeps what it found first."""
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()


def _keep_accelerate() -> Callable[[], None]:
    """Returns what gives accelerate back what it knows now: a trainer in all processes may go on with it."""
    state = sys.modules.get("accelerate.state")
    kinds = () if state is None else (state.PartialState, state.AcceleratorState, state.GradientState)
    known = [(kind._shared_state, dict(kind._shared_state)) for kind in kinds]

    def give_back() -> None:
        _forget_accelerate()
        for shared, before in known:
            shared.update(before)

    return give_back


def _meet() -> None:
    """Makes the group of all processes, once; words go by gloo, tensors on a GPU by nccl."""
    import torch
    import torch.distributed as dist
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # public, if not by its stubs
    from torch.distributed.rendezvous import rendezvous

    if dist.is_initialized():
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, number, count = next(iter(rendezvous("env://", timeout=timedelta(minutes=30))))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=PrefixStore("group", store),
        rank=number,
        world_size=count,
        timeout=_PATIENCE,
    )
    _Meeting.store = PrefixStore("sotune", store)


def _leave() -> None:
    import torch.distributed as dist

    _Meeting.store = None
    _forget_accelerate()
    dist.destroy_process_group()


def _tell(word: _Word) -> None:
    import torch
    import torch.distributed as dist

    _meet()
    dist.broadcast_object_list([word], src=0, device=torch.device("cpu"))


def _hear() -> _Word:
    import torch
    import torch.distributed as dist

    _meet()
    told: list[Any] = [None]
    dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
    word: _Word = told[0]
    return word


def _claim(number: int, status: int) -> bool:
    """Tells whether no other process failed before this one, and lets the others know."""
    mine = f"{number} {status}"
    try:
        return bool(_Meeting.store.compare_set(_FAILED, "", mine).decode() == mine)
    except RuntimeError:  # the process that kept the store is gone
        return False


def _failure() -> tuple[int, int] | None:
    """Returns the rank and the exit status of the process that failed first; ``None`` where none has."""
    try:
        if not _Meeting.store.check([_FAILED]):
            return None
        number, status = map(int, _Meeting.store.get(_FAILED).split())
    except RuntimeError:
        return -1, 1
    return number, status


def _follow(number: int) -> None:
    """Ends this process when another has failed: it may be waiting for what will never come."""
    while _Meeting.store is not None:
        time.sleep(_POLL_SECONDS)
        failed = None if _Meeting.store is None else _failure()
        if failed is not None and failed[0] != number:
            time.sleep(4 * _POLL_SECONDS)  # it may notice by itself and clean up
            if _Meeting.store is not None:
                _leave_word()
                os._exit(failed[1])


def _end(status: int, *, others: int) -> None:
    """Ends this process when all is said, before threads of the broken group abort it.

    It may keep the store in which the others read that it failed: they get some seconds for that.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    latest = time.monotonic() + _GRACE_SECONDS
    with contextlib.suppress(RuntimeError):
        while _Meeting.store.add(_LEFT, 0) < others and time.monotonic() < latest:
            time.sleep(_POLL_SECONDS)
    os._exit(status)


def _leave_word() -> None:
    """Tells the process that failed first that this one has read of it."""
    with contextlib.suppress(RuntimeError):
        _Meeting.store.add(_LEFT, 1)


def _is_lost(error: BaseException) -> bool:
    """Tells whether an error says that the connection to another process broke."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())
