"""Run folders from elsewhere, sealed anew by whoever changed them: each verb ends in one error."""

import json
import shutil

import pytest

import sotune
from pipeline_rows import write_jsonl, write_sets
from sotune.artifacts import sha256_file, sha256_json, write_json
from sotune.errors import SotuneError
from sotune.run_files import METRICS, PROMISE, SOLVER, Json


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model):
    """A run that went the whole way."""
    folder = tmp_path_factory.mktemp("finished")
    write_sets(folder, benign=24, harmful=4, reference=14)
    write_jsonl(folder / "prompts.jsonl", [{"prompt": f"How to {i}?", "kind": "harmful"} for i in range(2)])
    sotune.run(
        folder / "train.jsonl", safe_anchor=folder / "anchor.jsonl", harmful_reference=folder / "harm.jsonl",
        model=str(tiny_model("llama")), out=folder / "run", max_steps=1, hold="none", max_new_tokens=2, layer=1,
        eval_prompts=folder / "prompts.jsonl", diagnostics=False, prompt_control=False, dtype="float32", threads=1,
    )  # fmt: skip
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished / "run", tmp_path / "run")


def seal(run, name):
    """Notes what a file holds now, as if sotune had written it."""
    for path in run.glob("*.manifest.json"):
        manifest = json.loads(path.read_text())
        if name in manifest["outputs"]:
            manifest["outputs"][name] = sha256_file(run / name)
            del manifest["sha256"]
            write_json(path, {**manifest, "sha256": sha256_json(manifest)})


def change(run, name, edit):
    value = json.loads((run / name).read_text())
    edit(value)
    (run / name).write_text(json.dumps(value))
    seal(run, name)


def without(*place):
    """Returns what takes away a value."""

    def edit(value):
        for key in place[:-1]:
            value = value[key]
        del value[place[-1]]

    return edit


def put(odd, *place):
    """Returns what puts an odd value in place of one."""

    def edit(value):
        for key in place[:-1]:
            value = value[key]
        value[place[-1]] = odd

    return edit


VERBS = {
    "look": lambda run: [repr(sotune.open_run(run)), sotune.open_run(run).metrics],
    "select": lambda run: sotune.open_run(run).select(keep_fraction=0.5),
    "train": lambda run: sotune.open_run(run).train(learning_rate=1e-3),
    "evaluate": lambda run: sotune.open_run(run).evaluate(max_new_tokens=1),
    "report": lambda run: sotune.open_run(run).report(show_text=True),
    "score": lambda run: sotune.Scorer(run),
    "merge": lambda run: sotune.open_run(run).merge(),
}


@pytest.mark.parametrize(
    ("verb", "name", "edit"),
    [
        ("look", "metrics.json", without("base")),
        ("look", "metrics.json", without("tuned", "harmful_rate", "high")),
        ("look", "metrics.json", put("much", "tuned", "harmful_rate", "value")),
        ("look", "assessment.json", without("assessments", "tuned", "label")),
        ("look", "judging.json", put(None, "unscored")),
        ("look", "training.json", put([], "figures")),
        ("select", "sentinels.json", without("note")),
        ("select", "solver.json", put(10**30, "k")),
        ("select", "solver.json", put({"x": 1.0}, "reach")),
        ("train", "representations.json", put([1], "shards")),
        ("train", "representations.json", put("../../x", "fingerprint")),
        ("select", "records.json", put({"downstream": []}, "sets")),
        ("report", "promise.json", put({}, "harmful_pass")),
        ("report", "promise.json", put(True, "k")),
        ("score", "promise.json", without("cut")),
        ("score", "promise.json", put(float("nan"), "cut")),
        ("merge", "adapter/tokenizer.json", without("added_tokens")),
        ("merge", "adapter/adapter_config.json", put([[]], "target_modules")),
        ("evaluate", "adapter/adapter_config.json", put("x", "r")),
    ],
)  # fmt: skip
def test_odd_values_end_in_one_error(run, verb, name, edit):
    change(run, name, edit)
    if name == "representations.json":
        (run / "weights.manifest.json").unlink()  # so that the weights are solved again
    with pytest.raises(SotuneError) as error:
        VERBS[verb](run)
    assert any(word in str(error.value) for word in ("sotune", "could not be loaded", "delete it and run again"))


@pytest.mark.parametrize("verb", ["evaluate", "merge"])
@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "adapter/tokenizer.json"])
def test_files_of_an_adapter_that_are_cut_end_in_one_error(run, verb, name):
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[: len(content) // 2])
    seal(run, name)
    if (verb, name) == ("evaluate", "adapter/tokenizer.json"):
        VERBS[verb](run)  # the base model's is read
        return
    with pytest.raises(SotuneError, match="could not be loaded"):
        VERBS[verb](run)


@pytest.mark.parametrize("artefact", [METRICS, PROMISE, SOLVER], ids=lambda artefact: artefact.name)
def test_what_a_run_wrote_has_the_shape_that_is_asked_of_it(run, artefact):
    assert artefact.read(run) == Json(artefact.name, verb="x").read(run)
