import json
from dataclasses import replace
from pathlib import Path

import pytest

from sotune.scaling import DEVICES, GIB, LLAMA_8B, Workload, estimate_needs, training_bytes

RESULTS = Path(__file__).parents[1] / "experiments" / "gpu" / "results" / "results.json"
H100 = DEVICES["h100"]


def seconds(work, device=H100, n_devices=1):
    return {stage.stage: stage.seconds for stage in estimate_needs(work, LLAMA_8B, device, n_devices=n_devices).stages}


def test_what_was_measured_on_an_h100_is_met_within_a_factor_of_two():
    measured = json.loads(RESULTS.read_text())["table7"]["estimate"]
    work = Workload(5_000, mean_tokens=measured["tokens_encoded"] / 10_050, n_readings=1)
    found = seconds(work)
    for stage, name in (
        ("encode", "encode_seconds_ours"),
        ("weigh", "weigh_seconds_adaptive_5000"),
        ("train", "train_seconds_batch_4_trainer"),
    ):
        assert 0.5 < found[stage] / measured[name] < 2, stage
    assert 0.5 < (training_bytes(LLAMA_8B, tokens=2_048) - LLAMA_8B.weight_bytes) / (11.7 * GIB) < 2


def test_time_and_disk_grow_with_the_rows_and_the_devices_memory_does_not():
    few, many = (estimate_needs(Workload(n), LLAMA_8B, H100) for n in (10**6, 10**7))
    assert many.seconds / few.seconds == pytest.approx(10, rel=0.05)
    assert many.disk_bytes / few.disk_bytes == pytest.approx(10, rel=0.1)
    encode = [
        stage.device_bytes for needs in (few, many) for stage in needs.stages if stage.stage in ("encode", "train")
    ]
    assert encode[:2] == encode[2:]


def test_devices_share_all_but_reading_the_solver_and_the_judges():
    work = Workload(10**6, n_judged=1)
    one, eight = seconds(work), seconds(work, n_devices=8)
    assert one["train"] / eight["train"] == pytest.approx(8 * 0.95)
    assert (one["read"], one["weigh"]) == (eight["read"], eight["weigh"])
    asked = 2 * work.n_prompts * 2.0 / 16
    assert (one["evaluate"] - asked) / (eight["evaluate"] - asked) == pytest.approx(8 * 0.95)


def test_a_hold_takes_half_as_long_again_and_smaller_batches_less_memory():
    work = Workload(10**5)
    assert seconds(replace(work, held=True))["train"] == pytest.approx(1.2 * seconds(work)["train"])
    asked = seconds(replace(work, n_asked=1024))["train"] - seconds(work)["train"]
    answers = seconds(Workload(10**5, n_prompts=512, new_tokens=12, eval_batch=64))["evaluate"]
    assert asked == pytest.approx(answers)
    four, one = (estimate_needs(replace(work, micro_batch=n, longest=500), LLAMA_8B, H100) for n in (4, 1))
    assert four.device_bytes > one.device_bytes > LLAMA_8B.weight_bytes


def test_packed_rows_take_no_padding():
    work = Workload(10**5, micro_batch=4)
    padded, packed = seconds(work)["train"], seconds(replace(work, packed=True))["train"]
    assert packed < padded
    one = Workload(10**5, micro_batch=1)
    assert seconds(replace(one, packed=True)) == seconds(one)


def test_what_does_not_fit_is_told_with_the_setting_that_helps():
    (warning,) = estimate_needs(Workload(1_000, micro_batch=16), LLAMA_8B, DEVICES["rtx4090"]).warnings
    assert warning.startswith("train takes about")
    assert "GiB on a device of 24 GiB; lower per_device_train_batch_size" in warning
    assert estimate_needs(Workload(1_000), LLAMA_8B, H100).warnings == ()


def test_the_judges_cost_follows_from_questions_tokens_and_prices():
    work = Workload(100, n_prompts=50, n_judged=3, judge_tokens=(600.0, 100.0), judge_prices=(1.0, 4.0))
    needs = estimate_needs(work, LLAMA_8B, H100)
    assert needs.n_questions == 300
    assert needs.judge_cost == pytest.approx(300 * (600 * 1 + 100 * 4) / 1e6)
    assert estimate_needs(replace(work, judge_prices=None), LLAMA_8B, H100).judge_cost is None


def test_an_evaluation_is_answers_and_their_judging():
    needs = estimate_needs(Workload(100, n_prompts=80, n_judged=2, judges_at_once=4), LLAMA_8B, H100)
    without = estimate_needs(Workload(100, n_prompts=80), LLAMA_8B, H100)
    assert needs.judge_seconds == pytest.approx(320 * 2.0 / 4)
    assert needs.generation_seconds == pytest.approx(without.generation_seconds)
    assert needs.generation_seconds > 0
    assert needs.seconds == pytest.approx(without.seconds + needs.judge_seconds)


def test_ram_grows_by_what_names_a_row_and_not_by_its_text():
    short, long = (estimate_needs(Workload(10**6, row_bytes=size), LLAMA_8B, H100).stages[0] for size in (100, 10**5))
    assert short.ram_bytes == long.ram_bytes < 1.2 * GIB
