import json

import pytest

from pipeline_rows import rows, write_jsonl
from sotune.pipeline.estimating import SAMPLE, tell_time


@pytest.fixture
def estimate(cli, data, tmp_path, tiny_model):
    (data / "prompts.jsonl").write_text('{"kind": "harmful", "prompt": "How do I break a lock?"}\n' * 1)

    def run(*flags, **changes):
        settings = {
            "data": str(data / "train.jsonl"), "safe_anchor": str(data / "anchor.jsonl"),
            "harmful_reference": str(data / "harm.jsonl"), "harmful_where": ["label=harmful"],
            "model": str(tiny_model("llama")), "eval_prompts": str(data / "prompts.jsonl"), "device": "cpu",
            "out": str(tmp_path / "run"), "threads": 1, **changes,
        }  # fmt: skip
        file = tmp_path / "run.yaml"
        file.write_text(json.dumps(settings))
        return cli("estimate", file, *flags)

    return run


def test_it_counts_rows_and_tokens_and_starts_nothing(estimate, tmp_path):
    result = estimate("--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["n_rows"] == {"downstream": 90, "safe_anchor": 12, "harmful_reference": 20}
    assert 20 < found["work"]["mean_tokens"] < found["work"]["longest"] < 200
    assert found["work"]["n_prompts"] == 1
    stages = {stage["stage"]: stage for stage in found["needs"]["stages"]}
    assert list(stages) == ["read", "encode", "weigh", "select", "train", "evaluate"]
    assert all(stage["seconds"] >= 0 for stage in stages.values())
    assert stages["encode"]["disk_bytes"] > 110 * 32 * 4
    assert found["needs"]["device"]["source"] == "measured on this machine"
    assert not (tmp_path / "run").exists()


def test_a_large_set_is_sampled_and_counted(estimate, data):
    write_jsonl(data / "train.jsonl", rows("benign", 3 * SAMPLE + 7, 1))
    found = json.loads(estimate("--json", "--gpu", "h100", "--devices", "8").stdout)
    assert found["n_rows"]["downstream"] == 3 * SAMPLE + 7
    assert (found["needs"]["device"]["name"], found["needs"]["n_devices"]) == ("h100", 8)
    limited = json.loads(estimate("--json", limit=1500).stdout)
    assert limited["n_rows"]["downstream"] == 1500
    filtered = json.loads(estimate("--json", where=["label=benign"]).stdout)
    assert filtered["n_rows"]["downstream"] == 3 * SAMPLE + 7


def test_the_table_names_every_stage_and_the_judges_cost(estimate):
    priced = {"judge_input_price": 2.0, "judge_output_price": 8.0}
    result = estimate(harm_judge=["chat"], judge_base_url="http://127.0.0.1:9/v1", judge_model="j", **priced)
    assert result.exit_code == 0, result.output
    judging = ("to answer; 2 questions, 0.00,", "to judge")
    told = " ".join(result.output.replace("│", " ").split())  # a line may be wrapped
    for text in ("encode", "train", "GiB of RAM", *judging, "measured on this machine"):
        assert text in told


def test_without_a_gpu_memory_is_told_once_and_models_are_in_it(estimate):
    told = estimate().output
    assert "GiB of RAM" in told
    assert "GiB a device" not in told
    assert "GiB a device" in estimate("--gpu", "h100").output
    needs = [json.loads(estimate("--json", batch_tokens=n).stdout)["needs"]["stages"] for n in (16, 10**6)]
    few, many = ({stage["stage"]: stage for stage in stages}["encode"] for stages in needs)
    assert few["device_bytes"] == many["device_bytes"] == 0
    assert many["ram_bytes"] > 1.5 * few["ram_bytes"]


def test_the_rows_that_a_hold_asks_are_counted_and_packed_rows_have_no_padding(estimate):
    work = json.loads(estimate("--json").stdout)["work"]
    assert (work["held"], work["n_asked"], work["asked_tokens"]) == (True, 72, 12)
    few = json.loads(estimate("--json", method_settings={"asked_rows": 5, "asked_tokens": 7}).stdout)["work"]
    assert (few["n_asked"], few["asked_tokens"]) == (5, 7)
    assert json.loads(estimate("--json", hold="none").stdout)["work"]["n_asked"] == 0
    rows = {"per_device_train_batch_size": 4, "max_tokens_per_batch": 10_000}
    packed, padded = (json.loads(estimate("--json", packing=on, **rows).stdout)["work"] for on in (True, False))
    assert packed["training_bytes"] < padded["training_bytes"]


def test_an_unknown_device_is_refused(estimate):
    result = estimate("--gpu", "abacus")
    assert result.exit_code == 2
    assert "gpu must be one of h100" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("seconds", "told"), [(3.21, "3.2 s"), (90, "1.5 min"), (5400, "1.5 h"), (180_000, "2.1 days")]
)
def test_times_are_told_in_the_unit_that_suits_them(seconds, told):
    assert tell_time(seconds) == told
