import pytest
import torch

from sotune.models import ModelSpec, load_adapted, load_causal_lm
from sotune.records import Record
from sotune.rendering import load_renderer
from sotune.settings import TrainingSettings
from sotune.training import fine_tune
from sotune.training.token_losses import score_tokens
from sotune.training.training_rows import build_training_rows


@pytest.fixture
def spec(tiny_model):
    return ModelSpec(str(tiny_model("llama")), dtype="float32", device="cpu")


ROWS = [Record.from_text(f"r{i}", f"Add {i}", "So be it." + " Yes." * i) for i in range(5)]
SETTINGS = TrainingSettings(max_length=48, learning_rate=0.01, r=4, max_steps=3, template="paper")


def test_each_completion_token_has_its_loss_whatever_its_batch(spec):
    losses = score_tokens(ROWS, model=spec, adapter=None, settings=SETTINGS, batch_size=2)
    assert list(sorted(losses)) == [row.id for row in ROWS]
    model = load_causal_lm(spec, frozen=True)
    weights = dict.fromkeys((row.id for row in ROWS), 1.0)
    rows = build_training_rows(ROWS, weights, load_renderer(spec, SETTINGS)).rows
    for row in rows:
        ids = row.input_ids.long()
        with torch.no_grad():
            logits = model(ids[None]).logits[0]
        start = int(row.learned.nonzero()[0])
        assert row.learned[start:].all()
        expected = torch.nn.functional.cross_entropy(logits[start - 1 : -1], ids[start:], reduction="none")
        torch.testing.assert_close(losses[row.id], expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_counts(spec, tmp_path):
    weights = dict.fromkeys((row.id for row in ROWS), 1.0)
    adapter = fine_tune(ROWS, weights, model=spec, settings=SETTINGS, output_dir=tmp_path).adapter
    before, after = (
        torch.cat(list(score_tokens(ROWS, model=spec, adapter=a, settings=SETTINGS).values())) for a in (None, adapter)
    )
    assert after.mean() < before.mean()


def test_loading_an_adapter_leaves_the_random_state(spec, tmp_path):
    weights = dict.fromkeys((row.id for row in ROWS), 1.0)
    adapter = fine_tune(ROWS, weights, model=spec, settings=SETTINGS, output_dir=tmp_path).adapter
    state = torch.get_rng_state()
    load_adapted(spec, adapter)
    assert torch.equal(torch.get_rng_state(), state)
