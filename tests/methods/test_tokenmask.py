from dataclasses import replace

import pytest
import torch

from sotune.methods.tokenmask import mask_riskiest, train
from sotune.training import fine_tune


def test_the_riskiest_tokens_of_the_whole_set_are_masked():
    risks = {"a": torch.tensor([0.1, 5.0, -2.0]), "b": torch.tensor([4.0, 0.2])}
    kept = mask_riskiest(["a", "b"], risks, share=0.4)
    assert {id: mask.tolist() for id, mask in kept.items()} == {"a": [True, False, True], "b": [False, True]}


@pytest.mark.parametrize(("share", "masked"), [(0.0, 0), (0.39, 1), (0.4, 2), (0.99, 4)])
def test_the_share_is_rounded_down_and_ties_go_to_the_earlier_token(share, masked):
    kept = mask_riskiest(["a", "b"], {"a": torch.zeros(3), "b": torch.zeros(2)}, share=share)
    flat = [*kept["a"].tolist(), *kept["b"].tolist()]
    assert flat == [False] * masked + [True] * (5 - masked)


def test_a_fifth_of_the_tokens_is_masked_and_those_are_harms(train_inputs, monkeypatch):
    """Rows like the harmful reference lose tokens before rows like the anchor do."""
    seen = {}

    def spying(*args, **kwargs):
        seen.update(kwargs.get("learned_tokens") or {})
        return fine_tune(*args, **kwargs)

    monkeypatch.setattr("sotune.training.fine_tune", spying)
    settings = train_inputs.tools.training.model_copy(update={"max_steps": 30})
    train(replace(train_inputs, tools=replace(train_inputs.tools, training=settings)))
    flat = torch.cat(list(seen.values()))
    assert int((~flat).sum()) == int(0.2 * len(flat))
    harmful, others = (torch.cat([mask for id, mask in seen.items() if id.startswith(start)]) for start in ("x", "d"))
    assert (~harmful).double().mean() > 2 * (~others).double().mean()
