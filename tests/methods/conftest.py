from pathlib import Path

import pytest
import torch

from sotune.methods import InputRecords, Tools, TrainInputs, WeighInputs
from sotune.models import ModelSpec
from sotune.records import Record
from sotune.settings import TrainingSettings


def sums(name, n):
    return [Record.from_text(f"{name}{i:02d}", f"Add {i} and {i + 1}", f"It is {2 * i + 1}.") for i in range(n)]


@pytest.fixture
def tools(tiny_model, tmp_path) -> Tools:
    return Tools(
        model=ModelSpec(str(tiny_model("llama")), dtype="float32", device="cpu"),
        training=TrainingSettings(
            template="paper", max_length=48, learning_rate=0.01, per_device_train_batch_size=4, max_steps=6, r=4
        ),
        work_dir=tmp_path / "work",
        safety_pairs=[Record.from_text(f"p{i}", f"Steal {i} apples", "I will not.") for i in range(4)],
    )


@pytest.fixture
def weigh_inputs(tools) -> WeighInputs:
    """Twelve rows of which the first two are harmful, an anchor of 5 and a reference of 6."""
    harmful = [Record.from_text(f"x{i}", f"Pick lock {i}", "Use a hook.") for i in range(8)]
    records = InputRecords([*harmful[:2], *sums("d", 10)], sums("s", 5), harmful[2:])
    generator = torch.Generator().manual_seed(0)
    z = [torch.randn(n, 6, generator=generator) for n in (12, 5, 6)]
    truth = {record.id: i < 2 for i, record in enumerate(records.downstream)}
    return WeighInputs(*z, seed=0, records=records, tools=tools, truth=truth)


@pytest.fixture
def train_inputs(weigh_inputs, tmp_path) -> TrainInputs:
    records = weigh_inputs.records
    return TrainInputs(
        records=records.downstream,
        loss_weights=dict.fromkeys((record.id for record in records.downstream), 1.0),
        safe_anchor=records.safe_anchor,
        harmful_reference=records.harmful_reference,
        tools=weigh_inputs.tools,
        output_dir=Path(tmp_path) / "out",
    )
