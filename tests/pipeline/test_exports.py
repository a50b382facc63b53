"""A run to other tools: exports and merges by the command line, what goes to the Hub, the gate and its findings."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from pipeline_rows import rows, write_jsonl, write_sets
from sotune.artifacts import read_json

KEPT = {"prompt", "completion", "weight"}
"""Columns of TRL's rows here."""


class FakeHub:
    """Takes folders as HfApi does, and keeps what it was sent."""

    def __init__(self):
        self.made, self.sent = [], {}

    def create_repo(self, repo_id, repo_type, private, exist_ok):
        assert exist_ok
        self.made.append((repo_type, repo_id, private))

    def upload_folder(self, repo_id, repo_type, folder_path, commit_message):
        assert commit_message
        folder = Path(folder_path)
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.sent[repo_type] = files
        return f"https://hub/{repo_type}/{repo_id}"


@pytest.fixture
def hub(monkeypatch):
    fake = FakeHub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: fake)
    return fake


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model):
    """A run that is trained and evaluated, by stand-in judges."""
    import sotune

    folder = tmp_path_factory.mktemp("trained")
    write_sets(folder, benign=30, harmful=4, reference=20)
    prompts = [{"prompt": f"How to {i}?", "kind": kind} for i in range(3) for kind in ("harmful", "lookalike")]
    write_jsonl(folder / "prompts.jsonl", prompts)
    return sotune.run(
        folder / "train.jsonl", safe_anchor=folder / "anchor.jsonl", harmful_reference=folder / "harm.jsonl",
        model=str(tiny_model("llama")), out=folder / "run", max_steps=2, hold="none", max_new_tokens=4,
        eval_prompts=folder / "prompts.jsonl", diagnostics=False, prompt_control=False, dtype="float32", layer=1,
    )  # fmt: skip


def test_kept_rows_are_exported(cli, trained, tmp_path):
    result = cli("export", trained.path, "--to", "trl", "--out", tmp_path / "trl")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("weights: a column `weight`, which sotune.trl.WeightedSFTTrainer reads")
    found = [json.loads(line) for line in (tmp_path / "trl" / "train.jsonl").read_text().splitlines()]
    assert all(row.keys() == KEPT for row in found)
    own = trained.kept.to_pydict()
    assert [row["weight"] for row in found] == own["weight"]
    assert [row["completion"][0]["content"] for row in found] == own["response"]
    dropped = {row["id"] for row in trained.selection.to_pylist() if not row["kept"]}
    assert dropped
    written = (tmp_path / "trl" / "train.jsonl").read_text()
    assert not any(id in written for id in dropped)


def test_a_dry_run_writes_nothing_and_json_says_it_all(cli, trained, tmp_path):
    result = cli(
        "export", trained.path, "--to", "openai", "--resample", 50, "--out", tmp_path / "o", "--dry-run", "--json"
    )
    told = json.loads(result.stdout)["exported"]
    assert told["n_written"] == 50
    assert not (tmp_path / "o").exists()


def test_an_unknown_target_and_an_unselected_run_are_errors(cli, trained, tmp_path):
    assert cli("export", trained.path, "--to", "nowhere").exit_code == 2
    result = cli("export", trained.path)
    assert result.exit_code == 2
    assert "setting 'to' is required" in " ".join(result.output.split())
    result = cli("export", trained.path, "--to", "csv", "--plain", "--resample", 9)
    assert result.exit_code == 2
    assert "give one" in result.output


def test_nothing_is_sent_without_yes(cli, trained, tmp_path, hub):
    out = ("--to", "hf", "--out", tmp_path / "hf", "--push-to-hub", "me/rows")
    result = cli("export", trained.path, *out)
    assert result.exit_code == 0, result.output
    assert (hub.made, hub.sent) == ([], {})
    told = " ".join(result.output.split())
    assert "would send: dataset me/rows" in told
    assert "would send: model me/rows" in told
    assert "nothing was sent" in told


def test_rows_and_adapter_are_sent_with_cards(cli, trained, tmp_path, hub):
    out = ("--to", "hf", "--out", tmp_path / "hf", "--push-to-hub", "me/rows", "--yes")
    result = cli("export", trained.path, *out)
    assert result.exit_code == 0, result.output
    assert hub.made == [("dataset", "me/rows", True), ("model", "me/rows", True)]
    assert hub.sent["dataset"].keys() == {"README.md", "train.parquet"}
    model = hub.sent["model"]
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= model.keys()
    assert json.loads(model["adapter_config.json"])["base_model_name_or_path"] is None
    assert not any(str(trained.path).encode() in content for content in model.values())
    assert "sent https://hub/model/me/rows" in result.output


def test_the_adapter_stays_at_home_where_it_is_to(cli, trained, tmp_path, hub):
    out = ("--to", "hf", "--out", tmp_path / "hf", "--push-to-hub", "me/rows", "--no-adapter", "--public", "--yes")
    assert cli("export", trained.path, *out).exit_code == 0
    assert hub.made == [("dataset", "me/rows", False)]


@pytest.mark.parametrize("name", ["rows", "me/", "/rows", "a/b/c"])
def test_a_repository_needs_owner_and_name(cli, trained, tmp_path, hub, name):
    result = cli("export", trained.path, "--to", "csv", "--out", tmp_path / "c", "--push-to-hub", name)
    assert result.exit_code == 2
    assert "like OWNER/NAME" in " ".join(result.output.split())


def test_a_hub_that_refuses_is_told(cli, trained, tmp_path, hub, monkeypatch):
    monkeypatch.setattr(
        hub, "create_repo", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("offline")), raising=True
    )
    result = cli("export", trained.path, "--to", "hf", "--out", tmp_path / "h", "--push-to-hub", "me/rows", "--yes")
    assert result.exit_code == 1
    assert "the Hub did not take dataset me/rows (offline)" in " ".join(result.output.split())


class TestAdapterFolder:
    def test_files_are_for_everyone_to_read(self, trained):
        modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (trained.path / "adapter").iterdir()}
        assert set(modes.values()) == {oct((trained.path / "kept.jsonl").stat().st_mode & 0o777)}
        assert "adapter_model.safetensors" in modes

    def test_peft_finds_a_local_base_by_itself(self, trained):
        from peft import AutoPeftModelForCausalLM
        from transformers import AutoTokenizer

        adapter = trained.path / "adapter"
        model = AutoPeftModelForCausalLM.from_pretrained(adapter)
        ids = AutoTokenizer.from_pretrained(adapter)("hello", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            assert model(ids).logits.isfinite().all()

    def test_the_card_has_metadata_figures_and_limits(self, trained):
        from huggingface_hub import ModelCard

        card = ModelCard.load(trained.path / "adapter" / "README.md")
        assert card.data.library_name == "peft"
        assert card.data.pipeline_tag == "text-generation"
        assert "sotune" in card.data.tags
        rate = trained.metrics["tuned"]["harmful_rate"]
        assert f"{rate['value']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}], n = 3" in card.text
        for words in ("stand-in judge", "Nothing is promised", "Intended use and limits", "weighed by", "kept"):
            assert words in card.text
        assert "Nothing was measured yet" not in card.text
        assert str(trained.path) not in card.content

    def test_a_card_of_figures_leaves_training_as_it_was(self, trained):
        assert {one.status for one in trained.plan("evaluate").stages} == {"current"}


def test_a_merged_model_gives_the_same_logits(cli, trained, tmp_path, tiny_model):
    from peft import PeftModel
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = trained.path / "adapter"
    result = cli("merge", trained.path, "--out", tmp_path / "merged")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "README.md"} <= names
    ids = AutoTokenizer.from_pretrained(tmp_path / "merged")("Tell me how to bake bread", return_tensors="pt")[
        "input_ids"
    ]
    base = AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype=torch.float32)
    with torch.no_grad():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, adapter).eval()(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)(ids).logits
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, adapted, rtol=1e-4, atol=1e-5)
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as file:
        assert not any("lora" in name for name in file.keys())  # noqa: SIM118 - it is no mapping
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "PeftModel" not in card


def test_a_folder_of_something_else_is_not_merged_over(cli, trained, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    result = cli("merge", trained.path, "--out", tmp_path / "mine")
    assert result.exit_code == 2
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_neither_a_run_nor_another_model_is_merged_over(cli, trained, tmp_path, tiny_model):
    """Both hold safetensors, as a merged model does; what an earlier merge left is replaced."""
    run = shutil.copytree(trained.path, tmp_path / "run")
    base = shutil.copytree(tiny_model("llama"), tmp_path / "base")
    for other in (run, run / "adapter", base):
        before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
        result = cli("merge", run, "--out", other)
        assert result.exit_code == 2, result.output
        assert "is no merged model" in " ".join(result.output.split())
        assert {path: path.read_bytes() for path in before} == before
    for _ in range(2):
        assert cli("merge", run).exit_code == 0


def test_what_stands_beside_a_merged_model_is_never_deleted(cli, trained, tmp_path):
    for out in ((), ("--out", tmp_path / "elsewhere")):
        run = shutil.copytree(trained.path, tmp_path / f"run{len(out)}")
        folder = tmp_path / "elsewhere" if out else run / "merged"
        assert cli("merge", run, *out).exit_code == 0
        model = (folder / "model.safetensors").read_bytes()
        (folder / "notes").mkdir()
        for name in ("notes/mine.txt", "scores.json"):
            (folder / name).write_text("days of work")
            result = cli("merge", run, *out)
            assert result.exit_code == 2, result.output
            assert f"beside an earlier merged model: {name}; move it away" in " ".join(result.output.split())
            assert (folder / name).read_text() == "days of work"
            assert (folder / "model.safetensors").read_bytes() == model
            (folder / name).unlink()
        assert cli("merge", run, *out).exit_code == 0


def test_files_of_something_else_are_not_exported_over(cli, trained, tmp_path):
    for name in ("README.md", "train.jsonl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        for flags in ((), ("--dry-run",)):
            result = cli("export", trained.path, "--to", "trl", "--out", tmp_path / name, *flags)
            assert result.exit_code == 2, result.output
            assert f"holds {name} of something else" in " ".join(result.output.split())
        assert [path.read_text() for path in (tmp_path / name).iterdir()] == ["mine"]
    assert cli("export", trained.path, "--to", "trl", "--out", tmp_path / "README.md" / "README.md").exit_code == 2
    for target in ("trl", "csv"):  # an earlier export is replaced
        assert cli("export", trained.path, "--to", target, "--out", tmp_path / "new").exit_code == 0


def test_what_was_never_trained_cannot_be_merged(cli, flags, tmp_path):
    assert cli("weigh", *flags, "--no-prompt-control", "--layer", 1).exit_code == 0
    result = cli("merge", tmp_path / "run")
    assert result.exit_code == 2
    assert "run `sotune train` first" in " ".join(result.output.split())


def test_after_another_selection_nothing_that_was_handed_on_counts_as_current(cli, trained, hub, tmp_path):
    """The adapter is neither merged nor sent, and exports and the merged model are said to be stale."""
    run = shutil.copytree(trained.path, tmp_path / "run")
    assert cli("export", run, "--to", "csv").exit_code == 0
    assert cli("merge", run).exit_code == 0
    assert json.loads(cli("select", run, "--k", 20, "--json").stdout)["stale"]
    stale = read_json(run / "stale.json")
    assert f"run `sotune export {run} --to csv` again" in stale["export-csv"]
    assert f"run `sotune merge {run}` again" in stale["merged"]
    assert cli("merge", run).exit_code == 2
    result = cli("export", run, "--to", "csv", "--push-to-hub", "me/rows", "--yes")
    assert result.exit_code == 0, result.output
    assert hub.sent.keys() == {"dataset"}
    assert "the adapter is not sent: the training of" in " ".join(result.output.split())
    assert len((run / "exports" / "csv" / "train.csv").read_text().splitlines()) == 21
    assert "Nothing was measured" not in (run / "exports" / "csv" / "README.md").read_text()
    assert cli("select", run, "--k", 20).exit_code == 0
    assert "export-csv" not in read_json(run / "stale.json")  # it was written anew


def first_line(result):
    return " ".join(result.stdout.split("sotune ")[0].split())


class TestGate:
    @pytest.fixture
    def poor(self, data, tmp_path, tiny_model):
        """Flags of a run whose encoder sees only the last token, which is the same in all rows."""
        write_jsonl(data / "harm.jsonl", rows("harmful", 400, 4))
        return [
            data / "train.jsonl", "--safe-anchor", data / "anchor.jsonl", "--harmful-reference", data / "harm.jsonl",
            "--model", tiny_model("llama"), "--layer", 0, "--pooling", "last", "--no-prompt-control",
            "--out", tmp_path / "run",
        ]  # fmt: skip

    def test_a_poor_encoder_fails_and_says_by_how_much(self, cli, poor, tmp_path):
        result = cli("weigh", *poor, "--require-pass", 0.1)
        assert result.exit_code == 3, result.output
        said = first_line(result)
        assert said.startswith("Gate failed: require_pass 10.0 %: up to 100.0 % of harm like your reference may pass")
        assert re.search(r"90\.0 points too many: (3\d) of \1 sentinels do", said)
        assert (tmp_path / "run" / "report.html").exists()  # the evidence is there all the same
        assert cli("report", tmp_path / "run").exit_code == 0  # a requirement holds for the command that names it
        assert cli("report", tmp_path / "run", "--require-pass", 0.1).exit_code == 3

    def test_weak_is_said_first_without_a_gate_too(self, cli, poor, tmp_path):
        result = cli("weigh", *poor)
        assert result.exit_code == 0
        assert first_line(result).startswith("Weak: up to 100.0 % of harm like your reference may pass the cut (95 %)")
        page = " ".join((tmp_path / "run" / "report.html").read_text(encoding="utf-8").split())
        assert '<h1 class="alarm">Weak: up to 100.0 % of harm' in page

    def test_a_run_with_20_harmful_rows_says_that_nothing_is_promised(self, cli, flags, tmp_path):
        given = (*flags, "--no-prompt-control", "--layer", 1)
        result = cli("weigh", *given)
        assert result.exit_code == 0
        assert first_line(result).startswith("Nothing is promised of the harm that passes the cut: no sentinels")
        page = " ".join((tmp_path / "run" / "report.html").read_text(encoding="utf-8").split())
        assert '<h1 class="alarm">Nothing is promised' in page
        result = cli("select", tmp_path / "run", "--require-pass", 0.1, "--json")
        assert result.exit_code == 3
        (found,) = [one for one in json.loads(result.stdout)["findings"] if one["level"] == "gate failed"]
        assert "nothing is promised" in found["sentence"]

    def test_nothing_is_trained_on_a_cut_that_fails(self, cli, poor, tmp_path):
        config = tmp_path / "run.yaml"
        config.write_text("max_steps: 1\nhold: none\nrequire_pass: 0.1\n")
        result = cli("run", config, "--data", *poor, "--until", "train")
        assert result.exit_code == 3, result.output
        assert not (tmp_path / "run" / "adapter").exists()
        assert (tmp_path / "run" / "report.html").exists()

    def test_behavior_fails_by_its_interval(self, cli, trained):
        result = cli("evaluate", trained.path, "--require-harmful-rate", 0.05, "--require-over-refusal", 0.9)
        assert result.exit_code == 3
        said = first_line(result)
        rate = trained.metrics["tuned"]["harmful_rate"]
        assert f"the harmful rate of tuned is {100 * rate['value']:.1f} %" in said
        assert "points too many" in said
        assert "Judged by a stand-in judge (compliance-patterns)" in said

    def test_a_met_gate_leaves_with_0(self, cli, trained):
        assert cli("report", trained.path, "--require-harmful-rate", 1.0, "--require-over-refusal", 1.0).exit_code == 0

    def test_what_was_not_evaluated_fails(self, cli, flags, tmp_path):
        assert cli("weigh", *flags, "--no-prompt-control", "--layer", 1).exit_code == 0
        result = cli("report", tmp_path / "run", "--require-harmful-rate", 0.5)
        assert result.exit_code == 3
        assert "nothing was evaluated" in " ".join(result.output.split())


def test_a_stand_in_judge_is_named_wherever_it_feeds(trained, cli):
    page = (trained.path / "report.html").read_text(encoding="utf-8")
    assert page.count("stand-in judge") >= 3
    told = json.loads(cli("evaluate", trained.path, "--json").stdout)
    (figures,) = [one["figures"] for one in told["stages"] if one["stage"] == "evaluation"]
    assert "harmful rate (stand-in judge)" in figures
    assert "over refusal" in figures
    assert "Judged by a stand-in judge (compliance-patterns)" in told["findings"][0]["sentence"]
    assert read_json(trained.path / "assessment.json")["judges"]["harm"] == "compliance-patterns"
