import json
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sotune.cli import app
from sotune.errors import ConfigError, DataError
from sotune.mixing import MixSizes, check_disjoint, make_mixture, prompt_key, save_mixture
from sotune.records import Message
from sotune.sources import SourceOptions, load_set

SIZES = {"n": 20, "harmful_fraction": 0.2, "n_anchor": 10, "n_reference": 12, "n_eval": 5}
FLAGS = [part for name, value in SIZES.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def made_up(kind, counts, *, own_ids=True):
    """Rows about numbered prompts; ``counts`` says how many rows each prompt has."""
    return [
        {**({"id": f"{kind}-{i}-{j}"} if own_ids else {}), "prompt": f"{kind} request {i}", "response": f"answer {j}"}
        for i, count in enumerate(counts)
        for j in range(count)
    ]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def files(tmp_path):
    return {
        "task": write(tmp_path / "task.jsonl", made_up("task", [1, 2, 3] * 20)),
        "harmful": write(tmp_path / "harmful.jsonl", made_up("harmful", [2, 1] * 15)),
        "out": tmp_path / "mixed",
    }


@pytest.fixture
def mix(files):
    def run(*args, **changed):
        paths = {**files, **changed}
        named = [paths["task"], "--harmful", paths["harmful"], "--out", paths["out"]]
        return CliRunner().invoke(app, ["mix", *map(str, [*named, *FLAGS, *args])])

    return run


def keys(rows):
    return {" ".join(row["prompt"].split()).casefold() for row in rows}


def test_mix_writes_what_it_promises(mix, files):
    result = mix("--seed", "3")
    assert result.exit_code == 0, result.output
    out = files["out"]
    train, anchor, reference = (read(out / f"{n}.jsonl") for n in ("train", "safe_anchor", "harmful_reference"))
    evaluation = read(out / "eval.jsonl")
    labels = [row["mix_label"] for row in train]
    assert (labels.count("harmful"), labels.count("benign"), len(train)) == (4, 16, 20)
    assert labels != sorted(labels)
    assert (len(anchor), len(reference)) == (10, 12)
    own = {row["id"]: row for name in ("task", "harmful") for row in read(files[name])}
    assert all({k: v for k, v in row.items() if k != "mix_label"} == own[row["id"]] for row in train)
    assert all(row == own[row["id"]] for row in anchor + reference)
    assert [row["kind"] for row in evaluation] == ["harmful"] * 5 + ["task"] * 5
    assert all(row["prompt"] == own[row["id"]]["prompt"] for row in evaluation)
    assert all(row.get("reference") == own[row["id"]]["response"] for row in evaluation if row["kind"] == "task")
    assert all("reference" not in row for row in evaluation if row["kind"] == "harmful")
    account = json.loads((out / "mix.json").read_text())
    assert account["seed"] == 3
    assert account["sources"]["harmful"]["rows"] == {"evaluation": 5, "harmful_reference": 12, "train": 4}
    assert re.fullmatch("[0-9a-f]{64}", account["sources"]["task"]["inputs"]["task.jsonl"])
    assert str(out.parent) not in (out / "mix.json").read_text()


def test_the_configuration_is_one_that_weigh_and_run_accept(mix, files, tiny_model, tmp_path):
    mix()
    run = ["--config", files["out"] / "mix.yaml", "--model", tiny_model("llama"), "--out", tmp_path / "run"]
    planned = CliRunner().invoke(app, ["weigh", *map(str, run), "--dry-run"])
    assert planned.exit_code == 0, planned.output
    weighed = CliRunner().invoke(app, ["weigh", *map(str, run), "--quiet"])
    assert weighed.exit_code == 0, weighed.output
    kept = read(tmp_path / "run" / "kept.jsonl")
    assert len(kept) == 16
    assert {row["mix_label"] for row in kept} <= {"benign", "harmful"}


def test_a_safe_reference_is_dealt_last_of_prompts_that_nothing_else_has(mix, files, tiny_model, tmp_path):
    safe = made_up("harmful", [1] * 60) + [{**row, "label": "no"} for row in made_up("other", [1] * 40)]
    rows = [{"label": "safe", **row, "id": f"s-{row['id']}"} for row in safe]
    given = ("--safe-reference", write(tmp_path / "safe.jsonl", rows), "--safe-reference-where", "label=safe")
    result = mix(*given, "--n-safe-reference", "25")
    assert result.exit_code == 0, result.output
    out = files["out"]
    dealt = read(out / "safe_reference.jsonl")
    assert len(dealt) == 25
    assert all(row in rows and row["label"] == "safe" for row in dealt)
    others = [read(out / f"{name}.jsonl") for name in ("train", "safe_anchor", "harmful_reference", "eval")]
    assert not keys(dealt) & set.union(*map(keys, others))
    assert json.loads((out / "mix.json").read_text())["sources"]["safe"]["rows"] == {"safe_reference": 25}
    run = ["--config", out / "mix.yaml", "--model", tiny_model("llama"), "--out", tmp_path / "run"]
    extracted = CliRunner().invoke(app, ["extract", *map(str, run), "--quiet"])
    assert extracted.exit_code == 0, extracted.output
    assert mix(out=tmp_path / "without").exit_code == 0
    for name in ("train", "safe_anchor", "harmful_reference", "eval"):
        assert (out / f"{name}.jsonl").read_bytes() == (tmp_path / "without" / f"{name}.jsonl").read_bytes()
    refused = mix(*given, "--n-safe-reference", "55", out=tmp_path / "many")
    assert refused.exit_code == 2
    assert "the safe source has" in refused.output


def test_a_size_of_a_safe_reference_needs_a_source(mix):
    refused = mix("--n-safe-reference", "25")
    assert refused.exit_code == 2
    assert "name one with safe_reference" in " ".join(refused.output.split())


def test_one_seed_gives_one_experiment_and_another_seed_another(mix, files, tmp_path):
    mix()
    for name, seed in (("same", 0), ("other", 1)):
        assert mix("--seed", seed, out=tmp_path / name).exit_code == 0
    for name in ("train.jsonl", "safe_anchor.jsonl", "harmful_reference.jsonl", "eval.jsonl", "mix.json"):
        first = (files["out"] / name).read_bytes()
        assert first == (tmp_path / "same" / name).read_bytes()
        assert first != (tmp_path / "other" / name).read_bytes()


def test_the_held_out_roles_depend_neither_on_the_training_size_nor_on_the_other_source(mix, files, tmp_path):
    mix()
    task = write(tmp_path / "task2.jsonl", reversed(made_up("other task", [1] * 60)))
    assert mix("--harmful-fraction", "0.5", "--n", "10", out=tmp_path / "b").exit_code == 0
    assert mix(task=task, out=tmp_path / "c").exit_code == 0
    for name in ("safe_anchor.jsonl", "harmful_reference.jsonl", "eval.jsonl"):
        assert (files["out"] / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (files["out"] / "harmful_reference.jsonl").read_bytes() == (
        tmp_path / "c" / "harmful_reference.jsonl"
    ).read_bytes()


def test_the_draw_of_prompts_does_not_depend_on_the_order_of_the_rows(mix, files, tmp_path):
    mix()
    task = write(tmp_path / "reversed.jsonl", reversed(read(files["task"])))
    mix(task=task, out=tmp_path / "b")
    for name in ("train.jsonl", "safe_anchor.jsonl", "eval.jsonl"):
        assert keys(read(files["out"] / name)) == keys(read(tmp_path / "b" / name))


def test_prompts_are_the_same_whatever_their_case_and_white_space():
    assert prompt_key((Message("user", "Say  HELLO\n now"),)) == prompt_key((Message("user", " say hello now "),))
    assert prompt_key((Message("user", "a"),)) != prompt_key((Message("system", "b"), Message("user", "a")))


def test_a_prompt_that_the_harmful_source_has_is_no_task_prompt(mix, files, tmp_path):
    both = [{"prompt": "HARMFUL  request 1", "response": "no"}] * 3
    task = write(tmp_path / "both.jsonl", read(files["task"]) + both)
    result = mix("--json", task=task)
    assert json.loads(result.stdout)["sources"]["task"]["n_left_out"] == 3


@pytest.mark.parametrize("number", [int, float])
def test_ids_that_two_sources_share_get_the_source_as_a_prefix(mix, files, tmp_path, number):
    for name in ("task", "harmful"):
        write(files[name], [{**row, "id": number(i), "from": name} for i, row in enumerate(read(files[name]))])
    assert mix().exit_code == 0
    n_harmful = len(read(files["harmful"]))
    for row in read(files["out"] / "train.jsonl"):
        place = int(float(str(row["id"]).rpartition("/")[2]))
        assert row["id"] == (f"{row['from']}/{place}" if place < n_harmful else number(place))
    assert all("/" not in str(row["id"]) for row in read(files["out"] / "safe_anchor.jsonl"))


def test_ids_can_be_ignored(mix, files):
    for name in ("task", "harmful"):
        write(files[name], [{**row, "id": name} for row in read(files[name])])
    assert "--id-column none" in mix().output
    assert mix("--id-column", "none").exit_code == 0
    assert {row["id"] for row in read(files["out"] / "train.jsonl")} == {"task", "harmful"}


def test_rows_without_ids_of_their_own_get_none_but_evaluation_has_them(mix, files):
    for name in ("task", "harmful"):
        write(files[name], made_up(name, [1] * 40, own_ids=False))
    assert mix().exit_code == 0
    assert all("id" not in row for row in read(files["out"] / "train.jsonl"))
    assert len({row["id"] for row in read(files["out"] / "eval.jsonl")}) == 10


def test_refusals_come_from_prompts_that_are_not_held_out(mix, files, tmp_path):
    refusals = write(tmp_path / "refusals.jsonl", made_up("harmful", [1] * 30))
    result = mix("--refusals", refusals, "--refusal-fraction", "0.25")
    assert result.exit_code == 0, result.output
    train = read(files["out"] / "train.jsonl")
    assert sum(row["mix_label"] == "refusal" for row in train) == 5
    assert sum(row["mix_label"] == "harmful" for row in train) == 4
    held_out = keys(read(files["out"] / "harmful_reference.jsonl")) | keys(read(files["out"] / "eval.jsonl"))
    assert not keys(train) & held_out


def test_sources_of_different_columns_are_made_readable_together(mix, files, tiny_model, tmp_path):
    alpaca = [{"instruction": f"sum {i}", "input": "", "output": "seven"} for i in range(60)]
    assert mix(task=write(tmp_path / "alpaca.jsonl", alpaca)).exit_code == 0
    config = yaml.safe_load((files["out"] / "mix.yaml").read_text())
    assert (config["format"], config["safe_format"], config["harmful_format"]) == (
        "messages", "alpaca", "prompt-completion"
    )  # fmt: skip
    rows = {row["mix_label"]: row for row in read(files["out"] / "train.jsonl")}
    assert rows["benign"]["messages"][-1] == {"role": "assistant", "content": rows["benign"]["output"]}
    assert rows["harmful"]["messages"][0]["content"] == rows["harmful"]["prompt"]
    loaded = load_set(
        files["out"] / "train.jsonl",
        set_name="downstream",
        options=SourceOptions(format="messages"),
        max_quarantine_fraction=0,
    )
    assert len(loaded.records) == 20


def test_conversations_of_several_turns_keep_all_of_them(mix, files):
    turns = [("user", "hello"), ("assistant", "hi"), ("user", "question {}"), ("assistant", "reply")]
    for name in ("task", "harmful"):
        rows = [
            {"messages": [{"role": role, "content": text.format(f"{name} {i}")} for role, text in turns]}
            for i in range(60)
        ]
        write(files[name], rows)
    assert mix().exit_code == 0
    assert all(len(row["messages"]) == 3 for row in read(files["out"] / "eval.jsonl"))


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--n-reference", "900"], "harmful source has 30 distinct prompts.*harmful_reference needs 900 rows"),
        (["--n-anchor", "900"], "task source has 60 distinct prompts.*safe_anchor needs 900 rows"),
        (["--label-column", "response"], "column 'response' already.*--label-column"),
        (["--harmful-where", "kind=bad"], "no row has the column"),
        (["--refusal-fraction", "0.1"], "name one with refusals"),
        (["--harmful-fraction", "1.5"], "harmful_fraction: .*Got 1.5"),
    ],
)
def test_what_cannot_be_mixed_is_refused_before_anything_is_written(mix, files, args, error):
    result = mix(*args)
    assert result.exit_code == 2
    assert re.search(error, " ".join(result.output.split()))
    assert not files["out"].exists()


def test_a_folder_with_content_is_left_alone(mix, files):
    files["out"].mkdir()
    (files["out"] / "notes.txt").write_text("mine")
    result = mix()
    assert result.exit_code == 2
    assert "not an empty folder" in result.output
    assert [path.name for path in files["out"].iterdir()] == ["notes.txt"]


def test_a_dry_run_counts_and_touches_nothing(mix, files):
    planned = json.loads(mix("--dry-run", "--json").stdout)
    assert planned["would_write"] == str(files["out"])
    assert planned["sources"]["task"]["rows"]["train"] == 16
    assert "safe anchor 10" in mix("--dry-run").stdout
    assert not files["out"].exists()
    assert mix("--quiet").stdout == ""


def test_overlap_in_the_written_files_is_found(mix, files):
    mix()
    check_disjoint(files["out"])
    train = files["out"] / "train.jsonl"
    stolen = read(files["out"] / "eval.jsonl")[0]
    row = {"id": "stolen", "prompt": f" {stolen['prompt'].upper()} ", "response": "x", "mix_label": "harmful"}
    write(train, [*read(train), row])
    with pytest.raises(DataError, match=r"1 prompt both in train.jsonl \(ids \['stolen'\]\) and in eval.jsonl"):
        check_disjoint(files["out"])


def test_shares_above_the_whole_are_refused():
    with pytest.raises(ConfigError, match="exceed 1 together"):
        MixSizes.from_fractions(10, harmful_fraction=0.8, refusal_fraction=0.4, n_anchor=1, n_reference=1, n_eval=1)


@settings(max_examples=40, deadline=None)
@given(
    task=st.lists(st.integers(1, 4), min_size=12, max_size=25),
    harmful=st.lists(st.integers(1, 4), min_size=12, max_size=25),
    shared=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_roles_are_disjoint_and_exact_for_any_multiplicities(tmp_path_factory, task, harmful, shared, seed):
    folder = tmp_path_factory.mktemp("mix")
    rows = {"task": made_up("task", [*task, *[1] * shared]), "harmful": made_up("harmful", harmful)}
    rows["task"] += made_up("harmful", [2] * shared)
    rows["refusal"] = made_up("harmful", [1] * len(harmful)) + made_up("refused", [1] * 2)
    sources = {
        name: load_set(write(folder / f"{name}.jsonl", content), set_name="downstream", max_quarantine_fraction=0)
        for name, content in rows.items()
    }
    sizes = MixSizes(n_task=6, n_harmful=5, n_refusals=2, n_anchor=3, n_reference=4, n_eval=3)
    mixture = make_mixture(sources, sizes, seed=seed, label_column="mix_label")
    save_mixture(mixture, folder / "out", settings={})
    roles = [keys(part) for part in (mixture.train, mixture.safe_anchor, mixture.harmful_reference, mixture.evaluation)]
    assert all(not left & right for i, left in enumerate(roles) for right in roles[:i])
    assert (len(mixture.train), len(mixture.safe_anchor), len(mixture.harmful_reference)) == (13, 3, 4)
    assert len(roles[3]) == 6
    assert len({row["id"] for row in mixture.train}) == 13


def test_real_data_with_the_default_sizes(real_data, tmp_path):
    out = tmp_path / "mixed"
    task, harmful = (real_data / f"{name}.jsonl.gz" for name in ("alpaca_random9k", "pku_saferlhf_test"))
    args = ["mix", task, "--harmful", harmful, "--harmful-where", "label=harmful", "--out", out, "--json"]
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    sources = json.loads(result.stdout)["sources"]
    assert sources["harmful"]["rows"] == {"evaluation": 200, "harmful_reference": 1000, "train": 500}
    assert sources["task"]["rows"] == {"evaluation": 200, "safe_anchor": 50, "train": 4500}
    assert [row["mix_label"] for row in read(out / "train.jsonl")].count("harmful") == 500
    check_disjoint(out)
