"""Two processes on this machine against one."""

import json
from functools import partial
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from test_change import Pull
from tiny_trainer import make_rows, train

from launching import launch
from sotune.training.trainer import WeightedTrainer

TRAININGS = """
import json
import sys
from functools import partial
sys.path.insert(0, {tests!r})
from safetensors.torch import save_file
from test_change import Pull
from tiny_trainer import make_rows, train
from sotune.training.trainer import WeightedTrainer

def save(name, trainer, end):
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        save_file({{"end": end}}, {out!r} + "/" + name, metadata={{"losses": json.dumps(losses)}})

plain = dict(per_device_train_batch_size=2, gradient_accumulation_steps=2)
save("plain", *train(make_rows(24, weights={weights!r}), {out!r}, max_steps=3, **plain))
cut = partial(WeightedTrainer, max_tokens_per_batch=14, packing=True)
save("cut", *train(make_rows(16), {out!r}, per_device_train_batch_size=4, max_steps=2, trainer_class=cut))
save("changed", *train(make_rows(8), {out!r}, trainer_class=partial(WeightedTrainer, change=Pull(0.1)), **plain))
"""
WEIGHTS = [0.25 + (7 * i % 5) / 3 for i in range(24)]

FINE_TUNE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_finetune import run
run({model!r}, Path({out!r}), n=8, per_device_train_batch_size=2)
"""

# One that ends while the other still reads from it may take the connection down with it.
TOGETHER = """
import torch.distributed as dist
dist.barrier()
dist.destroy_process_group()
"""


def run_two_processes(script):
    """Runs a script as ranks 0 and 1, which end together."""
    statuses, _, errors = launch(script + TOGETHER)
    assert statuses == [0, 0], errors


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """Returns the parameters that two processes ended with in each of some trainings, and their losses."""
    out = tmp_path_factory.mktemp("two")
    run_two_processes(TRAININGS.format(tests=str(Path(__file__).parent), out=str(out), weights=WEIGHTS))

    def get(name):
        with safe_open(out / name, "pt") as file:
            return file.get_tensor("end"), json.loads(file.metadata()["losses"])

    return get


def test_two_processes_agree_with_one(of_two, tmp_path):
    """Each of three steps has 8 rows: 2 a device, 2 accumulations, 2 processes; or 4 at a time in one process."""
    rows = make_rows(24, weights=WEIGHTS)
    one, expected = train(rows, tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=3)
    end, losses = of_two("plain")
    assert (end - expected).abs().max() < 1e-6
    assert losses == pytest.approx([e["loss"] for e in one.state.log_history if "loss" in e], abs=1e-5)


def test_processes_whose_rows_are_cut_and_packed_agree_with_one(of_two, tmp_path):
    """Rows of different lengths need different numbers of parts; both processes take as many."""
    _, expected = train(make_rows(16), tmp_path, per_device_train_batch_size=8, max_steps=2)
    assert (of_two("cut")[0] - expected).abs().max() < 1e-6


def test_a_change_counts_once_in_two_processes(of_two, tmp_path):
    changed = partial(WeightedTrainer, change=Pull(0.1))
    _, expected = train(make_rows(8), tmp_path, per_device_train_batch_size=8, trainer_class=changed)
    assert (of_two("changed")[0] - expected).abs().max() < 1e-6


@pytest.mark.slow
def test_fine_tuning_in_two_processes_agrees_with_one(tiny_model, tmp_path):
    from test_finetune import run

    model = str(tiny_model("llama"))
    run_two_processes(FINE_TUNE.format(tests=str(Path(__file__).parent), model=model, out=str(tmp_path / "two")))
    one = run(model, tmp_path / "one", n=8, per_device_train_batch_size=4)
    expected = load_file(one.adapter / "adapter_model.safetensors")
    got = load_file(tmp_path / "two" / "adapter" / "adapter_model.safetensors")
    assert got.keys() == expected.keys()
    assert max(float((got[name] - expected[name]).abs().max()) for name in got) < 1e-5
    assert not (tmp_path / "two" / "checkpoints").exists()
