"""Several processes that work together, without a model."""

import os

import pytest

from launching import launch
from sotune import processes

TALK = """
import os
from sotune import processes
from sotune.errors import DataError

def part(payload):
    assert processes.size() == 2
    return processes.gather((processes.rank(), list(processes.share(payload))))

def work():
    assert processes.size() == 1 and processes.is_main() and "RANK" not in os.environ
    processes.call("part", lambda: part("ab"), "ab")
    return processes.together("part", lambda: part("abcde"), "abcde")

def fail():
    raise DataError("no rows")

with processes.joined():
    rank = processes.rank()
    assert processes.lead(work, {"part": part}) == [(0, list("ace")), (1, list("bd"))]
    assert processes.on_main(lambda: os.getpid()) == processes.gather(os.getpid())[0]
    for failing in (lambda: processes.lead(fail, {}), lambda: processes.on_main(fail)):
        try:
            failing()
        except DataError as error:
            assert str(error) == "no rows"
        else:
            raise AssertionError
    assert processes.size() == 2 and processes.rank() == rank
"""

FAIL = """
import sys, time
from sotune import processes
from sotune.cli.console import Output, errors_told
from sotune.errors import DataError
import typer

def part(_):
    if processes.rank() == int(sys.argv[1]):
        {failure}
    processes.barrier()

app = typer.Typer()

@app.command()
def command(at: int):
    with errors_told(Output(quiet=False, as_json=False, dry_run=False)), processes.joined():
        processes.lead(lambda: processes.call("part", lambda: part(None)), {{"part": part}})

app()
"""


def test_a_single_process_is_main_and_has_all_to_do():
    assert (processes.size(), processes.rank(), processes.is_main()) == (1, 0, True)
    assert processes.share("abc") == "abc"
    assert processes.gather(3) == [3]
    assert processes.lead(lambda: processes.together("part", lambda: 4), {}) == 4
    processes.call("part", lambda: pytest.fail("there is nobody to call"))
    with processes.joined(), processes.alone():
        assert processes.on_main(lambda: 5) == 5


def test_alone_hides_the_launcher_and_brings_it_back(monkeypatch):
    launched = {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "2", "ACCELERATE_USE_FSDP": "true"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert (processes.size(), processes.rank()) == (4, 2)
    with processes.alone():
        assert (processes.size(), processes.is_main()) == (1, True)
        assert not launched.keys() & os.environ.keys()
    assert {name: os.environ[name] for name in launched} == launched


@pytest.mark.parametrize(("visible", "own"), [(None, "2"), ("4,5,6,7", "6")])
def test_a_child_may_see_its_parents_gpu_alone(monkeypatch, visible, own):
    assert processes.own_gpu() == {}
    for name, value in {"WORLD_SIZE": "4", "RANK": "6", "LOCAL_RANK": "2", "CUDA_VISIBLE_DEVICES": visible}.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    assert processes.own_gpu() == {"CUDA_VISIBLE_DEVICES": own}


def test_two_processes_share_work_and_hear_of_what_main_found():
    statuses, _, errors = launch(TALK)
    assert statuses == [0, 0], errors


@pytest.mark.parametrize("at", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_an_error_in_one_process_ends_both_with_one_message(at):
    statuses, _, errors = launch(FAIL.format(failure="raise DataError('row 7 is torn')"), at)
    assert statuses == [2, 2], errors
    assert "".join(errors).count("row 7 is torn") == 1
    assert "error: row 7 is torn" in errors[at]
    assert "Traceback" not in "".join(errors)


@pytest.mark.slow
def test_a_process_that_dies_without_a_word_is_told_of():
    statuses, _, errors = launch(FAIL.format(failure="import os; os.kill(os.getpid(), 9)"), 1)
    assert statuses == [1, -9], errors
    assert "another process ended without a word" in " ".join(errors[0].split())


def test_a_trainer_goes_on_after_main_did_something_alone(monkeypatch):
    """What accelerate knew of the group is there again: a trainer asks it who writes when training has ended."""
    from accelerate import Accelerator

    trainer = Accelerator(cpu=True)
    monkeypatch.setattr(processes, "_tell", lambda word: None)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert processes.on_main(lambda: (processes.size(), Accelerator(cpu=True).num_processes)) == (1, 1)
    assert processes.size() == 2
    assert (trainer.process_index, trainer.is_main_process) == (0, True)
    assert trainer.sync_gradients
