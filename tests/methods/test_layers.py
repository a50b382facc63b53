from dataclasses import replace

import pytest
import torch

from sotune.methods import METHODS
from sotune.methods.datashield import compliance_aware_score, compliance_vector
from sotune.methods.larf import separation
from sotune.methods.layers import encode_layers
from sotune.models import load_causal_lm
from sotune.records import Record
from sotune.rendering import load_renderer
from sotune.representations import CausalLMEncoder, FrozenCausalLM


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_last_token_at_each_layer_is_the_encoders(weigh_inputs, layer):
    tools, rows = weigh_inputs.tools, weigh_inputs.records.downstream
    states = encode_layers(rows, tools, pooling="last")
    model = FrozenCausalLM(tools.model, tools.training, batch_tokens=64)
    encoder = CausalLMEncoder(model, layer=layer, pooling="last")
    assert states.shape == (3, 12, 32)
    torch.testing.assert_close(states[layer], encoder.encode(rows), rtol=1e-4, atol=1e-4)


def test_the_shift_is_the_completions_mean_less_the_prompts_last_state(weigh_inputs):
    tools, row = weigh_inputs.tools, weigh_inputs.records.downstream[3]
    tokens = load_renderer(tools.model, tools.training).tokens(row)
    with torch.no_grad():
        states = load_causal_lm(tools.model, frozen=True)(
            torch.tensor([tokens.input_ids]), output_hidden_states=True
        ).hidden_states[1][0]
    mean = states[tokens.n_prompt :].mean(0)
    rows = weigh_inputs.records.downstream
    torch.testing.assert_close(encode_layers(rows, tools, pooling="completion_mean")[1][3], mean, rtol=1e-4, atol=1e-5)
    shift = encode_layers(rows, tools, pooling="completion_minus_prompt")[1][3]
    torch.testing.assert_close(shift, mean - states[tokens.n_prompt - 1], rtol=1e-4, atol=1e-5)


def test_larf_finds_the_layer_at_which_the_references_part():
    """Leave-one-out: in many dimensions, rows at random look nearer to their own mean than to another's."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.nn.functional.normalize(torch.randn(40, 200, generator=generator, dtype=torch.float64))
    assert abs(separation(noise[:20], noise[20:])) < 1.0
    apart = noise.clone()
    apart[20:, 0] += 2
    apart = torch.nn.functional.normalize(apart)
    assert separation(apart[:20], apart[20:]) > 3


def test_larf_is_the_mean_cosine_difference_at_one_of_the_layers(weigh_inputs):
    records, tools = weigh_inputs.records, weigh_inputs.tools
    sets = (records.downstream, records.safe_anchor, records.harmful_reference)
    layers = [encode_layers(rows, tools, pooling="last")[1:] for rows in sets]
    candidates = [
        METHODS["mean_cosine"].weigh(replace(weigh_inputs, downstream=d, safe_anchor=s, harmful_reference=h)).weights
        for d, s, h in zip(*layers, strict=True)
    ]
    got = METHODS["larf"].weigh(weigh_inputs).weights
    assert any(torch.allclose(got, candidate, atol=1e-5) for candidate in candidates)


def test_the_compliance_score_by_hand():
    """Between-class over total scatter along the direction, on standardized states."""
    comply = torch.tensor([[2.0, 1.0], [4.0, -1.0]], dtype=torch.float64)
    refuse = torch.tensor([[-2.0, 1.0], [-4.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(compliance_vector(comply, refuse), torch.tensor([1.0, 0.0]).double())
    # Along the first axis: class means ±3, squares 4, 16, 4, 16.
    assert compliance_aware_score(comply, refuse) == pytest.approx(4 * 9 / 40)


def test_datashield_reads_completions_in_their_context(weigh_inputs):
    weights = METHODS["datashield"].weigh(weigh_inputs).weights
    rows = list(weigh_inputs.records.downstream)
    rows[5] = Record.from_text(rows[5].id, rows[5].prompt, "Use a hook.")
    changed = (
        METHODS["datashield"]
        .weigh(replace(weigh_inputs, records=replace(weigh_inputs.records, downstream=rows)))
        .weights
    )
    assert not torch.equal(weights, changed)
