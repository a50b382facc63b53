"""Any method in a run: what its folder holds, and what it says where something is missing."""

import json
from dataclasses import replace

import pytest

from sotune.artifacts import read_json
from sotune.miniature import (
    generate_eval_prompts,
    generate_harmful_reference,
    generate_safe_anchor,
    generate_task_data,
    model_path,
)
from sotune.run_files import WEIGHTS


@pytest.fixture
def flags(tmp_path):
    """The flags of a run on the miniature, whose rows say what they are."""

    def write(name, records):
        rows = [
            {"id": r.id, "prompt": r.prompt[0].content, "completion": r.completion, "kind": r.meta.get("kind", "")}
            for r in records
        ]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return [
        write("train.jsonl", generate_task_data("verdict", n=120, harmful_fraction=0.2, seed=0)),
        "--safe-anchor", write("anchor.jsonl", generate_safe_anchor("verdict", n=20, seed=0)),
        "--harmful-reference", write("harm.jsonl", generate_harmful_reference(n=200, seed=0)),
        "--model", str(model_path()), "--max-length", "64", "--dtype", "float32", "--device", "cpu",
        "--layer", "-1", "--pooling", "last", "--template", "paper", "--out", str(tmp_path / "run"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "solves", "has_sentinels"),
    [("probe", False, True), ("kernel_density_ratio", True, True), ("larf", False, False)],
)
def test_a_rival_weighs(cli, flags, tmp_path, name, solves, has_sentinels):
    result = cli("weigh", *flags, "--method", name, "--truth-column", "kind")
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    solver = read_json(run / "solver.json")
    assert (solver["method"], solver["kind"]) == (name, "rival")
    assert solver["title"] in (run / "report.html").read_text()
    weights = WEIGHTS.columns_of(run)
    assert sum(weights["weight"]) == pytest.approx(1)
    assert (None not in weights["pull_cost"]) == solves
    assert (run / "potentials.safetensors").exists() == solves
    assert read_json(run / "sentinels.json")["used"] == has_sentinels
    kinds = read_json(run / "promise.json")["kinds"]
    assert kinds["harmful"]["n"] == 24
    assert kinds["harmful"]["kept"] <= 6
    first = weights["id"][0]
    assert json.loads(cli("explain", run, first, "--json").stdout)[0]["sentence"]


def test_a_rival_runs_to_the_end(cli, flags, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    rows = [
        {"id": p.id, "kind": p.kind, "prompt": p.messages[0].content, "reference": p.reference}
        for p in generate_eval_prompts("verdict", n_each=4, seed=0)
    ]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tmp_path / "run.yaml"
    settings = dict(zip([f[2:].replace("-", "_") for f in flags[1::2]], flags[2::2], strict=True))
    training = {"max_steps": 3, "per_device_train_batch_size": 4, "max_new_tokens": 8, "judges": "miniature"}
    own = {"data": flags[0], "eval_prompts": str(prompts), "max_length": 64, "layer": -1, **training}
    config.write_text(json.dumps({**settings, **own}))
    result = cli("run", config, "--method", "saft")
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    assert read_json(run / "solver.json")["title"] == "SAFT"
    assert (run / "adapter" / "adapter_model.safetensors").exists()
    assert read_json(run / "metrics.json")["tuned"]["harmful_rate"]["n"] == 4
    # Another trainer starts from the same weights: only what follows them is done again.
    plan = json.loads(
        cli("run", config, "--method", "saft + sbr", "--method-setting", "alpha=5", "--dry-run", "--json").stdout
    )
    assert [outcome["status"] for outcome in plan["stages"]] == ["current"] * 4 + ["to do"] * 3


def test_a_bound_knows_the_truth_and_keeps_by_it(cli, flags, tmp_path):
    assert cli("weigh", *flags, "--method", "oracle", "--truth-column", "kind").exit_code == 0
    kinds = read_json(tmp_path / "run" / "promise.json")["kinds"]
    assert kinds["harmful"]["kept"] == 0
    assert all(counts["kept"] == counts["n"] for kind, counts in kinds.items() if kind != "harmful")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--method", "adptive"], "unknown method 'adptive'; did you mean 'adaptive'?"),
        (["--method", "oracle"], "name the column that says so with truth_column"),
        (["--method", "oracle", "--truth-column", "kin"], "has the column 'kin' that truth_column names"),
        (["--method", "adaptive + sbr", "--method-setting", "alpa=3"], "did you mean 'alpha'?"),
        (["--method", "probe", "--method-setting", "inverse_regularization"], "must be like NAME=VALUE"),
        (["--method", "probe", "--method-setting", "inverse_regularization=0"], "must be greater than 0. Got 0"),
        (["--keep", "auto", "--k", "3"], "keep auto finds how much to keep; leave out k and keep_fraction"),
    ],
)
def test_what_a_method_lacks_is_said_before_any_work(cli, flags, tmp_path, extra, message):
    result = cli("weigh", *flags, *extra)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "run" / "weights.parquet").exists()


def test_no_method_but_a_bound_is_shown_the_truth_column(cli, flags, monkeypatch):
    from sotune.methods import METHODS

    seen = []
    monkeypatch.setitem(METHODS, "random", replace(
        METHODS["random"], weigher=lambda inputs: seen.append(inputs) or inputs.rows[:, 0].double().abs()
    ))  # fmt: skip
    assert cli("weigh", *flags, "--method", "random", "--truth-column", "kind").exit_code == 0
    (inputs,) = seen
    assert inputs.truth is None
    assert all(record.meta == {} for record in inputs.records.downstream)
