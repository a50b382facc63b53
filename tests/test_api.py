import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from rich.console import Console

import sotune
from pipeline_rows import rows, write_jsonl
from sotune.api import watching

README = Path(__file__).parents[1] / "README.md"
TRAINING = {"max_steps": 2, "per_device_train_batch_size": 4, "max_new_tokens": 4, "threads": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of a small contaminated set."""
    folder = tmp_path_factory.mktemp("api")
    train = [{**row, "id": f"row-{i}"} for i, row in enumerate(rows("benign", 36, 1) + rows("harmful", 4, 2))]
    write_jsonl(folder / "train.jsonl", train)
    write_jsonl(folder / "new.jsonl", rows("benign", 5, 6))
    write_jsonl(folder / "trusted.jsonl", rows("benign", 12, 3))
    write_jsonl(folder / "harm.jsonl", rows("harmful", 20, 4))
    prompts = [{"id": f"h{i}", "kind": "harmful", "prompt": f"How to break lock {i}?"} for i in range(3)]
    task = [{"id": f"t{i}", "kind": "task", "prompt": f"Bake {i} breads", "reference": "done"} for i in range(3)]
    write_jsonl(folder / "prompts.jsonl", prompts + task)
    return folder


@pytest.fixture(scope="module")
def sets(folder, tiny_model):
    return {
        "data": folder / "train.jsonl",
        "safe_anchor": folder / "trusted.jsonl",
        "harmful_reference": folder / "harm.jsonl",
        "model": tiny_model("llama"),
        "layer": -1,
        **TRAINING,
    }


@pytest.fixture(scope="module")
def weighed(folder, sets):
    return sotune.weigh(**sets, out=folder / "weighed")


def test_the_readme_is_true(folder, tiny_model, monkeypatch):
    code = re.search(r"## From Python\n\n```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    small = "\n".join(f"    {name}={value!r}," for name, value in TRAINING.items())
    snippet = code[1].replace('model="Qwen/Qwen3-8B",', f"model={str(tiny_model('llama'))!r},\n{small}")
    monkeypatch.chdir(folder)
    shown = io.StringIO()
    names = {}
    with contextlib.redirect_stdout(shown):
        exec(snippet, names)
    assert shown.getvalue().startswith(("kept", "dropped"))
    run = names["run"]
    assert run.weights.num_rows == 40
    assert run.selection["kept"].to_pylist().count(True) == 24
    assert run.kept.num_rows == 24
    assert sum(run.kept["weight"].to_pylist()) == pytest.approx(24)
    assert set(run.metrics) == {"base", "tuned"}
    assert run.promise["k"] == 24
    assert (folder / "runs" / "first" / "scores.parquet").exists()
    assert (folder / "runs" / "first" / "report.html").exists()


def test_a_run_shows_its_figures_and_escapes_them(weighed, folder):
    text = repr(sotune.open_run(weighed.path))
    assert text.startswith(f"Run({str(folder / 'weighed')!r})")
    assert "select: kept: 32 of 40 rows" in text
    assert "<td" in weighed._repr_html_()
    odd = folder / "<img src=x onerror=alert(1)>\x1b"
    os.symlink(weighed.path, odd)
    assert "<img" not in sotune.open_run(odd)._repr_html_()
    assert "\x1b" not in repr(sotune.open_run(odd))


def test_every_verb_gives_the_run_and_says_what_it_did(sets, folder):
    run = sotune.extract(**sets, out=folder / "verbs")
    assert [outcome.stage for outcome in run.summary.stages] == ["records", "representations"]
    assert sotune.open_run(folder / "verbs").summary.stages == ()
    assert sotune.run(**sets, out=folder / "verbs", until="weigh").summary.stages[0].status == "skipped"
    assert run.select(k=7) is run
    assert run.settings.k == 7
    assert run.kept.num_rows == 7
    assert [outcome.status for outcome in run.plan("select", k=7).stages] == ["current"] * 5
    assert run.report(show_text=True) is run
    assert run.settings.show_text


def test_an_artefact_of_what_is_no_more_is_not_handed_out(weighed):
    with pytest.raises(sotune.ArtifactError, match=r"holds no finished evaluation; run `sotune evaluate` first"):
        _ = weighed.metrics


def test_rows_are_explained_and_scored_by_method_and_by_function(weighed, folder):
    one = weighed.explain("row-7")
    assert sotune.explain(weighed, ["row-7"]) == [one] == sotune.explain(str(weighed.path), ["row-7"])
    assert not one.texts
    assert weighed.explain("row-7", show_text=True).texts
    scored = sotune.score(weighed, folder / "new.jsonl", out=folder / "own.parquet")
    assert (scored.n_scored, scored.file) == (5, str(folder / "own.parquet"))


def test_kept_rows_of_mixed_types_are_still_a_table(sets, folder, tmp_path):
    mixed = [
        {**row, "extra": extra} for row, extra in zip(rows("benign", 4, 9), [1, "two\u2028", None, [3]], strict=True)
    ]
    data = write_jsonl(tmp_path / "mixed.jsonl", [*mixed, *rows("harmful", 2, 8)])
    run = sotune.weigh(**{**sets, "data": data, "keep_fraction": 1.0}, out=tmp_path / "run")
    assert run.kept["extra"].to_pylist() == ["1", '"two\\u2028"', None, "[3]", None, None]


def test_settings_come_from_a_file_a_mapping_and_keywords(sets, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({name: str(v) if isinstance(v, Path) else v for name, v in sets.items()}))
    planned = sotune.api.plan("weigh", config=file, out=tmp_path / "none", harmful_where="label=harmful")
    assert {outcome.status for outcome in planned.stages} == {"to do"}
    assert sotune.api.plan("weigh", config=sets, out=tmp_path / "none") == planned
    assert not (tmp_path / "none").exists()
    file.write_text("epsilonn: 0.1")
    with pytest.raises(sotune.ConfigError, match=r"run\.yaml: .*unknown setting 'epsilonn'; did you mean 'epsilon'"):
        sotune.weigh("train.jsonl", config=file)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda run: sotune.weigh("train.jsonl", keepfraction=1),
            "weigh: unknown setting 'keepfraction'; did you mean",
        ),
        (lambda run: sotune.weigh("train.jsonl", zzzzzz=1), r"see help\(sotune.weigh\) for all settings"),
        (lambda run: sotune.evaluate(model="m", adaptor="a"), "unknown setting 'adaptor'; did you mean 'adapter'"),
        (lambda run: sotune.mix("task.jsonl", harmfull="h"), "unknown setting 'harmfull'; did you mean 'harmful'"),
        (lambda run: sotune.judge_check("l.jsonl", rol="harm"), "unknown setting 'rol'; did you mean 'role'"),
        (lambda run: sotune.compare({"methods": ["sft"], "sedes": 1}), "sedes"),
        (lambda run: run.select(epsilon=0.1), "select: unknown setting 'epsilon'"),
        (lambda run: sotune.weigh("train.jsonl", epsilon="x"), "epsilon: must be a valid number"),
    ],
)
def test_a_wrong_keyword_is_named_with_the_nearest(weighed, call, message):
    with pytest.raises(sotune.ConfigError, match=message):
        call(weighed)


def test_help_and_completion_know_the_settings():
    import inspect

    parameters = inspect.signature(sotune.weigh).parameters
    assert list(parameters)[:3] == ["data", "config", "monitor"]
    assert parameters["keep_fraction"].default == 0.8
    assert "keep_fraction: " in sotune.weigh.__doc__
    assert "learning_rate" in inspect.signature(sotune.Run.train).parameters
    assert set(sotune.__all__) <= set(dir(sotune))


def test_mix_compare_and_judge_check_are_functions(folder, tmp_path):
    pool = write_jsonl(tmp_path / "task.jsonl", [{"id": i, "prompt": f"p{i}", "response": "r"} for i in range(30)])
    harm = write_jsonl(tmp_path / "harm.jsonl", [{"id": i, "prompt": f"h{i}", "response": "r"} for i in range(30)])
    mixed = sotune.mix(pool, harmful=harm, out=tmp_path / "mix", n=10, n_anchor=2, n_reference=4, n_eval=3)
    assert all(Path(file).exists() for file in mixed.files)
    cells = sotune.api.plan_comparison(
        {"methods": ["sft", "random"], "datasets": ["miniature-verdict"], "seeds": 1}, out=tmp_path / "compare"
    )
    assert [cell.status for cell in cells] == ["to do", "to do"]
    labeled = [
        {"id": f"{i}", "prompt": "p", "response": answer, "label": label}
        for i, (answer, label) in enumerate([("I cannot help.", "safe"), ("Sure: first,", "harmful")] * 3)
    ]
    found = sotune.judge_check(write_jsonl(tmp_path / "labeled.jsonl", labeled), out=tmp_path / "check.json")
    assert found["n"] == 6
    assert all(Path(file).exists() for file in found["files"])
    written = json.loads((tmp_path / "check.json").read_text())
    assert {**written, "files": found["files"]} == json.loads(json.dumps(found))


def test_progress_shows_in_a_terminal_and_a_notebook_and_nowhere_else(monkeypatch):
    screen = io.StringIO()
    for kind in ({"force_terminal": True}, {"force_jupyter": True}):
        monkeypatch.setattr(watching, "Console", lambda stderr, kind=kind: Console(file=screen, **kind))
        monkeypatch.setattr(Console, "_check_buffer", lambda self: self._buffer.clear())  # IPython is not here
        with watching.watched(None) as monitor:
            assert isinstance(monitor, watching.ConsoleMonitor)
            monitor.stage("weigh", "running")
            monitor.progress("solving", 1, 2)
            monitor.warn("look out")
    monkeypatch.undo()
    with watching.watched(None) as monitor, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monitor.progress("solving", 1, 2)
        monitor.warn("look out")
    assert [str(warning.message) for warning in caught] == ["look out"]
    own = watching.WarningsMonitor()
    with watching.watched(own) as monitor:
        assert monitor is own


def run_python(*command):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)


def test_the_module_is_the_command_line():
    assert run_python("-m", "sotune", "--version").stdout.strip() == f"sotune {sotune.__version__}"
    assert "--keep-fraction" in run_python("-m", "sotune", "help", "weigh").stdout
    assert "judge-check" in run_python("-m", "sotune", "help").stdout
    unknown = run_python("-m", "sotune", "help", "wiegh")
    assert unknown.returncode == 2
    assert "wiegh" in unknown.stderr


def test_import_loads_nothing_heavy():
    heavy = ("torch", "numpy", "pydantic", "pyarrow", "rich", "typer", "transformers", "yaml")
    code = f"import sys, sotune; dir(sotune); print([m for m in {heavy} if m in sys.modules])"
    assert run_python("-c", code).stdout.strip() == "[]"
    later = "import sys, sotune; sotune.weigh; print([m for m in ('torch', 'pyarrow') if m in sys.modules])"
    assert run_python("-c", later).stdout.strip() == "[]"


def test_names_in_brackets_are_no_markup_of_the_help(monkeypatch):
    """Typer reads help as rich markup, of which the name of an extra is one."""
    monkeypatch.setenv("COLUMNS", "160")
    assert "'sotune[quantized]'" in run_python("-m", "sotune", "help", "train").stdout


@pytest.mark.parametrize(("before", "level"), [("", logging.ERROR), ("logger.setLevel(10); ", logging.DEBUG)])
def test_no_kernels_are_warned_of_before_a_model_is_loaded(before, level):
    """Where bitsandbytes is installed, it would as soon as PEFT is; a level that a user gave it stays."""
    logger = "import logging, sotune; logger = logging.getLogger('bitsandbytes'); "
    code = f"{logger}{before}sotune.open_run; print(logger.level)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == level
