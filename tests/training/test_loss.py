import pytest
import torch
from torch.nn import functional

from sotune.errors import DataError
from sotune.training import loss as loss_module
from sotune.training.loss import IGNORE_INDEX, compute_token_losses, compute_weighted_loss


def make_batch(n_rows=4, length=9, vocabulary=13, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n_rows, length, vocabulary, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(vocabulary, (n_rows, length), generator=generator)
    for row in range(n_rows):
        labels[row, : 1 + row] = IGNORE_INDEX
        labels[row, length - row :] = IGNORE_INDEX
    loss_weight = torch.rand(n_rows, generator=generator)
    return logits, labels, loss_weight


def weighted_loss(logits, labels, loss_weight, n_rows):
    return compute_weighted_loss(compute_token_losses(logits, labels), labels, loss_weight, n_rows=n_rows)


def reference_loss(logits, labels, loss_weight, n_rows):
    """Eq. 8 row by row, with torch's own cross-entropy."""
    total = torch.zeros(())
    for row_logits, row_labels, weight in zip(logits, labels, loss_weight, strict=True):
        total = total + weight * functional.cross_entropy(row_logits[:-1].float(), row_labels[1:])
    return total / n_rows


@pytest.mark.parametrize("chunk_elements", [1, 26, 1 << 24])
def test_value_and_gradient_equal_a_loop_over_rows(monkeypatch, chunk_elements):
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", chunk_elements)
    logits, labels, loss_weight = make_batch()
    expected = reference_loss(logits, labels, loss_weight, n_rows=7)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    got = weighted_loss(logits, labels, loss_weight, n_rows=7)
    (gradient,) = torch.autograd.grad(got, logits)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


def test_micro_batches_add_up_to_the_batch():
    logits, labels, loss_weight = make_batch()
    whole = weighted_loss(logits, labels, loss_weight, n_rows=4)
    parts = [
        weighted_loss(logits[part], labels[part], loss_weight[part], n_rows=4) for part in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_a_row_counts_by_its_weight_and_not_by_its_length():
    logits = torch.zeros(2, 10, 5)
    labels = torch.full((2, 10), IGNORE_INDEX)
    labels[0, 1:3] = 1
    labels[1, 1:10] = 1
    uniform = torch.tensor(5.0).log()
    for weights in ([1.0, 0.0], [0.0, 1.0]):
        torch.testing.assert_close(weighted_loss(logits, labels, torch.tensor(weights), n_rows=1), uniform)


def test_bfloat16_logits_are_normalized_in_float32():
    logits, labels, loss_weight = make_batch(vocabulary=4096, dtype=torch.bfloat16)
    got = weighted_loss(logits, labels, loss_weight, n_rows=4)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, reference_loss(logits, labels, loss_weight, 4), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(got, logits)
    assert gradient.dtype == torch.bfloat16


def test_large_logits_stay_finite():
    logits = torch.full((1, 2, 3), 1e4).requires_grad_()
    loss = weighted_loss(logits, torch.tensor([[0, 1]]), torch.ones(1), n_rows=1)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_a_row_without_a_label_is_refused():
    logits, labels, loss_weight = make_batch()
    labels[2] = IGNORE_INDEX
    labels[2, 0] = 3  # the first token is never predicted
    with pytest.raises(DataError, match=r"rows \[2\] of the batch have no completion token"):
        weighted_loss(logits, labels, loss_weight, n_rows=4)


def test_shapes_that_disagree_are_refused():
    logits, labels, loss_weight = make_batch()
    with pytest.raises(DataError, match=r"Got \[4, 9\], \[4, 9\] and \[3\]"):
        weighted_loss(logits, labels, loss_weight[:3], n_rows=4)
    with pytest.raises(DataError, match=r"Got \[4, 9, 13\] and \[4, 8\]"):
        weighted_loss(logits, labels[:, 1:], loss_weight, n_rows=4)


def test_the_float32_copy_is_bounded(monkeypatch):
    """Autograd keeps the logits and one number a token, and no chunk is larger than asked."""
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", 64)
    logits, labels, loss_weight = make_batch(n_rows=3, length=50, vocabulary=32, dtype=torch.bfloat16)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        weighted_loss(logits, labels, loss_weight, n_rows=3)
    assert all(t.dtype != torch.float32 or t.numel() <= labels.numel() for t in saved)
    chunks = loss_module._labeled_chunks(logits.flatten(0, 1), labels.flatten())
    assert max(map(len, chunks)) == 2
