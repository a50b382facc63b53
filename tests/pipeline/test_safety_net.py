"""What a failed or careless command must not cost."""

import os
import shutil

import pytest

from sotune.artifacts import read_json


def test_a_command_that_fails_costs_nothing_that_stood_there(cli, flags, tmp_path):
    cli("weigh", *flags)
    run = tmp_path / "run"
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert cli("select", run, "--k", "500").exit_code == 2
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    assert cli("report", run).exit_code == 0


def test_a_report_needs_neither_the_data_nor_the_working_folder(cli, flags, data, tmp_path, monkeypatch):
    monkeypatch.chdir(data)
    relative = [os.path.relpath(flag, data) if flag.startswith(str(data)) else flag for flag in flags]
    assert cli("weigh", *relative).exit_code == 0
    monkeypatch.chdir("/")
    assert cli("select", tmp_path / "run", "--keep-fraction", "0.5").exit_code == 0
    shutil.rmtree(data)
    assert cli("report", tmp_path / "run").exit_code == 0


def test_scores_are_refused_when_the_weights_belong_to_another_model(cli, flags, data, tmp_path, tiny_model):
    cli("weigh", *flags)
    other = [*flags, "--model", str(tiny_model("gpt2"))]
    assert cli("extract", *other).exit_code == 0
    result = cli("score", tmp_path / "run", data / "train.jsonl")
    assert result.exit_code == 2
    assert "is stale: the encoding has been done again since; run `sotune select" in " ".join(result.output.split())


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_infinite_settings_are_refused(cli, flags, value):
    assert cli("weigh", *flags, "--epsilon", value).exit_code == 2


def test_an_effective_sample_size_below_one_row_is_refused(cli, flags):
    result = cli("weigh", *flags, "--effective-sample-size", "0.002")
    assert result.exit_code == 2
    assert "cannot be reached with 90 rows" in " ".join(result.output.split())


def test_a_flag_wins_over_what_it_excludes_in_the_yaml(cli, flags, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("keep_fraction: 0.5\n")
    assert cli("weigh", "--config", file, *flags, "--k", "3").exit_code == 0
    assert read_json(tmp_path / "run" / "config.json")["k"] == 3


def test_system_errors_have_no_traceback(cli, flags, tmp_path):
    result = cli("weigh", "--config", tmp_path)
    assert result.exit_code == 2
    result = cli("weigh", *flags[:-1], str(tmp_path / ("x" * 300)))
    assert result.exit_code in (1, 2)
    assert "Traceback" not in result.output


def test_files_keep_to_the_umask(cli, flags, tmp_path):
    mask = os.umask(0o077)
    try:
        cli("weigh", *flags)
    finally:
        os.umask(mask)
    assert (tmp_path / "run" / "kept.jsonl").stat().st_mode & 0o077 == 0
