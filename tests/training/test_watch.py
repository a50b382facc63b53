"""Training is looked at while it goes on: the held-out loss is logged, and too much compliance ends it."""

import json

import pytest
from safetensors.torch import load_file
from test_finetune import Killed, digest, kill_at, make_records, make_settings, make_weights, run

from sotune.errors import SotuneError
from sotune.models import ModelSpec, load_adapted
from sotune.rendering import load_renderer
from sotune.settings import TrainingSettings
from sotune.training import fine_tune
from sotune.training.progress import count_held_out, count_steps
from sotune.training.token_losses import score_tokens
from sotune.training.training_rows import build_training_rows


def train(model, output_dir, *, n=20, probe=None, on_step=None, **changes):
    return fine_tune(
        make_records(n),
        make_weights(n),
        model=ModelSpec(str(model), device="cpu"),
        settings=make_settings(**changes),
        output_dir=output_dir,
        probe=probe,
        on_step=on_step,
    )


def log(result):
    return [json.loads(line) for line in result.log.read_text().splitlines()]


def test_rows_are_held_out_as_the_seed_says(tiny_model):
    renderer = load_renderer(ModelSpec(str(tiny_model("llama")), device="cpu"), make_settings())
    rows = build_training_rows(make_records(20), make_weights(20), renderer)
    kept, held_out = rows.hold_out(2, 0)
    assert {row.id for row in kept.rows} | {row.id for row in held_out} == {row.id for row in rows.rows}
    assert (len(kept.rows), len(held_out)) == (18, 2)
    assert rows.hold_out(2, 0)[1] == held_out != rows.hold_out(2, 1)[1]
    assert rows.hold_out(0, 0)[0].digest() == rows.digest()


def test_at_most_a_tenth_is_held_out():
    settings = TrainingSettings(eval_steps=5, num_train_epochs=1)
    assert [count_held_out(n, settings) for n in (9, 10, 700)] == [0, 1, 64]
    assert count_held_out(700, TrainingSettings()) == 0
    assert count_steps(700, settings) == 636


def test_the_held_out_loss_is_logged_and_right(tiny_model, tmp_path):
    folder = tiny_model("llama")
    result = train(folder, tmp_path, eval_steps=3, max_steps=7, eval_rows=2)
    noted = {line["step"]: line["eval_loss"] for line in log(result) if "eval_loss" in line}
    assert list(noted) == [3, 6, 7]
    assert result.n_rows == 18
    settings = make_settings()
    model = ModelSpec(str(folder), device="cpu")
    rows = build_training_rows(make_records(20), make_weights(20), load_renderer(model, settings))
    ids = {row.id for row in rows.hold_out(2, 0)[1]}
    held_out = [record for record in make_records(20) if record.id in ids]
    losses = score_tokens(held_out, model=model, adapter=result.adapter, settings=settings)
    assert noted[7] == pytest.approx(sum(float(x.mean()) for x in losses.values()) / 2, abs=1e-5)


def test_looking_changes_no_step(tiny_model, tmp_path):
    quiet = run(tiny_model("llama"), tmp_path / "quiet", max_steps=6, lora_dropout=0.2)
    watched = train(
        tiny_model("llama"), tmp_path / "watched", n=6, max_steps=6, lora_dropout=0.2, probe=lambda _: 0.0,
        stop_at_harmful_rate=0.5,
    )  # fmt: skip
    assert digest(quiet) == digest(watched)


class Rates:
    """Answers of a probe, by how much the model has changed: each look is a function of the weights."""

    def __init__(self, limit):
        self.limit, self.looks = limit, 0

    def __call__(self, model):
        self.looks += 1
        moved = sum(float(p.detach().abs().sum()) for name, p in model.named_parameters() if "lora_B" in name)
        return 0.0 if moved < self.limit else 1.0


def test_too_much_compliance_ends_training_with_the_weights_from_before(tiny_model, tmp_path):
    settings = {"eval_steps": 2, "max_steps": 12, "n": 6, "save_steps": 3, "stop_at_harmful_rate": 0.2}
    free = train(tiny_model("llama"), tmp_path / "free", probe=lambda _: 0.0, **settings)
    total = sum(float(x.abs().sum()) for name, x in weights(free).items() if "lora_B" in name)
    probe = Rates(total * 0.6)
    stopped = train(tiny_model("llama"), tmp_path / "stopped", probe=probe, **settings)
    rates = {line["step"]: line["harmful_rate"] for line in log(stopped) if "harmful_rate" in line}
    last = max(rates)
    assert rates[last] == 1.0
    assert last < 12
    assert stopped.figures == {"stopped_at": last, "kept_step": last - 2}
    assert stopped.n_steps == last
    moved = sum(float(x.abs().sum()) for name, x in weights(stopped).items() if "lora_B" in name)
    assert 0 < moved < total * 0.6
    assert load_adapted(ModelSpec(str(tiny_model("llama")), device="cpu"), stopped.adapter) is not None
    with pytest.raises(Killed):
        train(tiny_model("llama"), tmp_path / "killed", probe=Rates(total * 0.6), on_step=kill_at(last), **settings)
    again = train(tiny_model("llama"), tmp_path / "killed", probe=Rates(total * 0.6), **settings)
    assert digest(again) == digest(stopped)
    assert again.figures == stopped.figures


def weights(result):
    return load_file(result.adapter / "adapter_model.safetensors")


def test_a_model_that_complies_before_training_is_an_error(tiny_model, tmp_path):
    with pytest.raises(SotuneError, match="complies with 100% of the probe's prompts before any training"):
        train(tiny_model("llama"), tmp_path, probe=lambda _: 1.0, stop_at_harmful_rate=0.1)
    assert not (tmp_path / "adapter").exists()
