"""Every bad input has an error of its own: what, got, remedy; exit status 2; no traceback."""

import gzip
import json

import pytest
import torch

from pipeline_rows import rows, write_jsonl
from sotune.artifacts import RunFolder, read_json


def check(result, *parts):
    assert result.exit_code == 2, (result.exit_code, result.output)
    flat = " ".join(result.output.split())
    for part in parts:
        assert part in flat, (part, flat)
    assert "Traceback" not in result.output


def without(flags, *names):
    kept = list(flags)
    for name in names:
        i = kept.index(name)
        del kept[i : i + 2]
    return kept


def test_bad_rows_are_quarantined_counted_and_named(cli, flags, data, tmp_path):
    with (data / "train.jsonl").open("ab") as file:
        file.write(b'{"id": "broken", "prompt": "no end\n')
        file.write(b'{"id": "bytes", "prompt": "\xff\xfe", "response": "x"}\n')
        file.write(b'{"id": "empty", "prompt": "say nothing", "response": "  "}\n')
    assert cli("weigh", *flags).exit_code == 0
    quarantined = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert [row["line"] for row in quarantined] == [91, 92, 93]
    assert all(row["reason"] and row["file"].endswith("train.jsonl") for row in quarantined)
    assert read_json(tmp_path / "run" / "records.json")["sets"]["downstream"]["n_quarantined"] == 3
    assert "quarantine" in (tmp_path / "run" / "report.html").read_text().lower()


def test_the_quarantine_is_there_when_too_few_rows_are_left(cli, flags, data, tmp_path):
    with (data / "train.jsonl").open("a") as file:
        file.write("not json\n")
    write_jsonl(data / "anchor.jsonl", rows("benign", 3, 2))
    check(cli("weigh", *flags), "the safe_anchor has 3 usable rows")
    quarantined = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert [row["line"] for row in quarantined] == [91]


def test_too_many_bad_rows_stop_the_run(cli, flags, data):
    with (data / "train.jsonl").open("a") as file:
        file.writelines("not json\n" for _ in range(30))
    check(cli("weigh", *flags), "30 of 120", "--max-quarantine-fraction")


def test_a_missing_file_and_an_empty_file(cli, flags, data):
    check(cli("weigh", str(data / "nowhere.jsonl"), *flags[1:]), "nowhere.jsonl")
    (data / "anchor.jsonl").write_text("")
    check(cli("weigh", *flags), "anchor.jsonl")


def test_a_file_in_utf16_is_named(cli, flags, data):
    text = (data / "train.jsonl").read_text()
    (data / "train.jsonl").write_bytes(text.encode("utf-16"))
    check(cli("weigh", *flags), "UTF-16", "UTF-8")


def test_a_truncated_gzip_file_is_named(cli, flags, data):
    whole = gzip.compress((data / "train.jsonl").read_bytes())
    (data / "train.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    check(cli("weigh", str(data / "train.jsonl.gz"), *flags[1:]), "train.jsonl.gz")


def test_a_repeated_id_is_named(cli, flags, data):
    write_jsonl(data / "train.jsonl", rows("benign", 20, 1) + rows("benign", 1, 1))
    check(cli("weigh", *flags), "'benign-1-0' occurs twice", "--id-column")


def test_duplicates_without_ids_stay_distinct_and_are_counted(cli, flags, data, tmp_path):
    content = [{k: v for k, v in row.items() if k != "id"} for row in rows("benign", 20, 1)]
    write_jsonl(data / "train.jsonl", content + content[:3])
    assert cli("weigh", *flags).exit_code == 0
    assert read_json(tmp_path / "run" / "records.json")["sets"]["downstream"]["n_duplicates"] == 3


def test_a_small_or_overlapping_anchor_is_refused(cli, flags, data):
    write_jsonl(data / "anchor.jsonl", rows("benign", 4, 3))
    check(cli("weigh", *flags), "safe_anchor has 4 usable rows", "min_reference_rows=10")
    write_jsonl(data / "anchor.jsonl", rows("benign", 12, 3) + rows("harmful", 1, 4))
    check(cli("weigh", *flags), "1 row both in the safe anchor and in the harmful reference", "remove it")


def test_a_reference_row_among_the_data_is_a_warning(cli, flags, data, tmp_path):
    write_jsonl(data / "train.jsonl", rows("benign", 20, 1) + rows("harmful", 2, 4))
    result = cli("weigh", *flags)
    assert result.exit_code == 0
    warnings = read_json(tmp_path / "run" / "records.json")["warnings"]
    assert warnings == ["2 downstream rows also in the harmful reference, word for word"]


def test_a_filter_that_names_no_column_or_keeps_nothing(cli, flags):
    check(cli("weigh", *flags, "--where", "lable=benign"), "lable", "label")
    check(cli("weigh", *flags, "--where", "label=nice"), "nice", "benign")


def test_k_over_n(cli, flags):
    check(cli("weigh", *flags, "--k", "91"), "k=91 exceeds 90 records; lower k")


def test_a_weight_column_of_the_users_own(cli, flags, data, tmp_path):
    content = [{**row, "weight": 3} for row in rows("benign", 20, 1)]
    write_jsonl(data / "train.jsonl", content)
    check(cli("weigh", *flags), "has a column 'weight' already", "--weight-column")
    assert cli("weigh", *flags, "--weight-column", "sot").exit_code == 0
    first = json.loads((tmp_path / "run" / "kept.jsonl").read_text().splitlines()[0])
    assert first["weight"] == 3
    assert "sot" in first


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        (["--epsilon", "0"], ["epsilon", "greater than 0"]),
        (["--push-strength", "1.5"], ["push_strength", "1.5"]),
        (["--keep-fraction", "0"], ["keep_fraction"]),
        (["--k", "3", "--keep-fraction", "0.5"], ["k=3 and keep_fraction=0.5", "give one"]),
        (["--tau", "0.2", "--effective-sample-size", "0.5"], ["tau and effective_sample_size", "give one"]),
        (["--encoder", "word2vec:x"], ["encoder must be sentence-transformers:PATH"]),
        (["--layer", "7"], ["layer 7", "2 layers"]),
        (["--device", "tpu7"], ["device", "tpu7"]),
    ],
)
def test_a_bad_setting_is_named(cli, flags, extra, parts):
    check(cli("weigh", *flags, *extra), *parts)


def test_several_faults_are_told_at_once(cli, flags):
    check(cli("weigh", *flags, "--epsilon", "-1", "--push-strength", "2"), "epsilon", "push_strength")


def test_missing_settings_and_models(cli, flags, tmp_path):
    check(cli("weigh", *without(flags, "--model")), "name a causal LM with model")
    check(cli("weigh", *without(flags, "--safe-anchor")), "'safe_anchor' is required")
    check(cli("weigh", *without(flags, "--model"), "--model", str(tmp_path / "none")), "none", "does not exist")


def test_an_unknown_key_in_the_yaml_is_named_with_the_nearest(cli, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("data: x\nepsilom: 0.1\n")
    check(cli("weigh", "--config", file), "unknown setting 'epsilom'; did you mean 'epsilon'?")
    file.write_text("- a list\n")
    check(cli("weigh", "--config", file), "must be a mapping")
    file.write_text("a: [\n")
    check(cli("weigh", "--config", file), "not readable YAML")
    check(cli("weigh", "--config", tmp_path / "none.yaml"), "does not exist")


def test_a_folder_that_is_not_a_run_is_not_touched(cli, flags, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    check(cli("weigh", *flags), "not empty and is not a run folder", "name a new folder")
    check(cli("report", tmp_path / "elsewhere"), "is not a run folder")


def test_two_processes_do_not_share_a_run(cli, flags, tmp_path):
    with RunFolder(tmp_path / "run").lock():
        check(cli("weigh", *flags), "another process is using")


def test_nan_representations_name_their_rows(cli, flags, tmp_path, tiny_model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model("llama"))
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(tiny_model("llama")).save_pretrained(tmp_path / "broken")
    result = cli("weigh", *without(flags, "--model"), "--model", tmp_path / "broken")
    check(result, "NaN", "float32")


def test_over_long_rows_are_cut_and_counted(cli, flags, data, tmp_path):
    content = rows("benign", 20, 1)
    content[0]["prompt"] = "a very long story " * 400
    write_jsonl(data / "train.jsonl", content)
    result = cli("weigh", *flags, "--max-length", "64")
    assert result.exit_code == 0
    assert read_json(tmp_path / "run" / "representations.json")["n_truncated"] >= 1
    assert "longer than" in " ".join(result.output.split())
