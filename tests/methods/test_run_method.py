"""One path for all methods: the same bytes wherever two of them amount to the same."""

import shutil
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from method_runs import run_method, select_by
from sotune.artifacts import read_json, sha256_file
from sotune.errors import ConfigError
from sotune.evaluation import Verdict
from sotune.methods import METHODS, Method, Weighing, method_named, self_replay
from sotune.methods.method import train_weighted
from sotune.methods.ranking import weights_by_rank
from sotune.models import load_causal_lm, load_tokenizer

AT_OTHER_SEAMS = sorted(name for name, method in METHODS.items() if set(method.seams) & {"train", "edit"})
FILTERS = ("random", "alpagasus", "dsir", "saft", "seal", "sot_uniform", "oracle_k")


class Grader:
    name, labels = "grader", ("graded",)

    def judge(self, prompts, responses):
        return [Verdict(p.id, float(len(p.messages[-1].content)), "graded", "") for p in prompts]


def run(name, inputs, folder, *, keep_fraction=1.0, **settings):
    return run_method(
        method_named(name), inputs, keep_fraction=keep_fraction, output_dir=folder, method_settings=settings
    )


def digest(result):
    return sha256_file(result.training.adapter / "adapter_model.safetensors")


@pytest.fixture
def graded(weigh_inputs):
    return replace(weigh_inputs, tools=replace(weigh_inputs.tools, judge=Grader()))


def test_filters_that_keep_all_give_the_bytes_of_plain_fine_tuning(graded, tmp_path):
    expected = digest(run("sft", graded, tmp_path / "sft"))
    assert {name: digest(run(name, graded, tmp_path / name)) for name in FILTERS} == dict.fromkeys(FILTERS, expected)


def test_the_oracle_gives_the_bytes_of_training_on_the_clean_rows(weigh_inputs, train_inputs, tmp_path):
    clean = [record for record in train_inputs.records if not weigh_inputs.truth[record.id]]
    weights = dict.fromkeys((record.id for record in clean), 1.0)
    expected = train_weighted(replace(train_inputs, records=clean, loss_weights=weights))
    got = run("oracle", weigh_inputs, tmp_path / "oracle", keep_fraction=0.5)
    assert digest(got) == sha256_file(expected.adapter / "adapter_model.safetensors")


def test_selection_keeps_the_order_of_the_data(graded):
    for name in FILTERS:
        kept = list(select_by(METHODS[name], graded, keep_fraction=0.5)[1])
        order = [record.id for record in graded.records.downstream]
        assert kept == [id for id in order if id in kept]
        assert len(kept) == 6


def disturbed(model, tmp_path):
    """A copy of a model with other weights, which stands for the one before alignment."""
    folder = shutil.copytree(model, tmp_path / "unaligned")
    weights, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(0)
    moved = {name: w + 0.1 * torch.randn(w.shape, generator=generator) for name, w in weights.items()}
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("name", AT_OTHER_SEAMS)
def test_a_method_of_another_seam_leaves_a_plain_adapter_and_repeats_itself(name, graded, tmp_path, monkeypatch):
    """Not that of plain fine-tuning, in the same number of steps, and loadable by PEFT as it lies there."""
    from peft import PeftModel

    monkeypatch.setattr(self_replay, "find_refusal", bool)  # a random model refuses nothing
    if name == "replay":
        graded = replace(graded, records=replace(graded.records, safe_reference=graded.tools.safety_pairs))
    settings = {}
    if name == "safe_lora":
        settings = {"unaligned_model": str(disturbed(graded.tools.model.name, tmp_path)), "projected_below": 1.0}
    first, again, plain = (
        run(method, graded, tmp_path / folder, **settings)
        for method, folder in ((name, "1"), (name, "2"), ("sft", "3"))
    )
    assert digest(first) == digest(again)
    assert digest(first) != digest(plain)
    assert first.training.n_steps == plain.training.n_steps == 6
    spec = graded.tools.model
    ids = load_tokenizer(spec)("Add 3 and 4", return_tensors="pt")["input_ids"]
    base = load_causal_lm(spec, frozen=True)
    with torch.no_grad():
        before = base(input_ids=ids).logits
        after = PeftModel.from_pretrained(base, first.training.adapter)(input_ids=ids).logits
    assert (after - before).abs().max() > 1e-4
    config = read_json(first.training.adapter / "adapter_config.json")
    readme = (first.training.adapter / "README.md").read_text()
    assert f"rank {config['r']}," in readme
    assert config["lora_alpha"] / config["r"] == 16 / 4


def test_a_combination_keeps_what_its_weigher_keeps_and_trains_as_its_trainer(graded, tmp_path):
    both = run("oracle + safeinstr", graded, tmp_path / "both")
    alone = run("oracle", graded, tmp_path / "alone")
    assert both.loss_weights == alone.loss_weights
    assert both.training.n_rows == alone.training.n_rows + 1
    assert digest(both) != digest(alone)


def test_seams_of_methods_and_combinations():
    assert METHODS["sft"].seams == ()
    assert METHODS["dsir"].seams == ("weigh",)
    assert METHODS["lisa"].seams == ("train",)
    assert METHODS["resta"].seams == ("edit",)
    assert method_named(" sbr+sot + resta").seams == ("weigh", "train", "edit")
    assert method_named("sot + sbr") == method_named("sbr + sot")
    assert method_named("sot + sbr").loss_weight_rule == "proportional"
    assert method_named("sbr + resta").keeps_all
    assert not method_named("sot + sbr").keeps_all
    assert "truth" in method_named("oracle + sbr").needs
    assert method_named("oracle + sbr").weigher is METHODS["oracle"].weigher
    assert all(len(method.seams) == 1 for name, method in METHODS.items() if name != "sft")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("magic", "unknown method 'magic'; known: sft, random"),
        ("sot + saver", "unknown method 'saver'"),
        ("sot + safinstr", "did you mean 'safeinstr'"),
        ("sot +", "names no method before or after"),
        ("sot + probe", "'sot' and 'probe' in 'sot . probe' both weigh"),
        ("lisa + sot + sbr", "'lisa' and 'sbr' in .* both train"),
        ("sft + lisa", "'sft' in 'sft . lisa' changes nothing"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(text, error):
    with pytest.raises(ConfigError, match=error):
        method_named(text)


def test_weights_by_rank_by_hand():
    weights = weights_by_rank(torch.tensor([5.0, -1.0, 5.0, 7.0]))
    torch.testing.assert_close(weights, torch.tensor([2.5, 1.0, 2.5, 4.0]).double() / 10)
    lowest = weights_by_rank(torch.tensor([0.0, -torch.inf]))
    torch.testing.assert_close(lowest, torch.tensor([2.0, 1.0]).double() / 3)


def test_a_method_that_keeps_too_much_is_the_callers_fault(weigh_inputs):
    nothing = Method("nothing", "nothing", weigher=lambda _: Weighing(torch.zeros(12).double(), k=0))
    with pytest.raises(Exception, match="k must be between 1 and 12"):
        select_by(nothing, weigh_inputs, keep_fraction=1.0)


def outside(monkeypatch, **values):
    """Makes objects of a module look like entry points of another package."""
    module = ModuleType("outside_methods")
    module.__dict__.update(values)
    monkeypatch.setitem(sys.modules, "outside_methods", module)
    entries = [EntryPoint(name, f"outside_methods:{name}", "sotune.methods") for name in [*values, "gone"]]
    monkeypatch.setattr("sotune.plugins.metadata.entry_points", lambda group: entries)


def test_methods_of_other_packages_are_found_and_combined(monkeypatch):
    norm = Method("norm", "norm", weigher=lambda inputs: inputs.rows.norm(dim=1))
    outside(monkeypatch, norm=norm, probe=norm, number=3)
    assert method_named("norm") is norm
    assert method_named("norm + sbr").seams == ("weigh", "train")
    assert method_named("probe") is METHODS["probe"]  # no package replaces one of ours
    with pytest.raises(ConfigError, match="did you mean 'norm'"):
        method_named("norn")
    with pytest.raises(ConfigError, match="outside_methods:number must be a sotune.methods.Method. Got a int"):
        method_named("number")
    with pytest.raises(ConfigError, match="method 'gone' of outside_methods:gone could not be loaded"):
        method_named("gone")


def test_every_method_says_what_it_is():
    for name, method in METHODS.items():
        assert method.name == name
        assert method.title
        assert not method.citation or method.kind in ("rival", "ours")
        assert method.link.startswith("https://") or not method.link
