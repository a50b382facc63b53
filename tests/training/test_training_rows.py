import pytest
import torch

from sotune.errors import DataError
from sotune.records import Record
from sotune.rendering import Renderer
from sotune.training.loss import IGNORE_INDEX
from sotune.training.training_rows import ShuffledRows, TrainingRow, WeightedCollator, build_training_rows

EOS = 1


class Letters:
    """A tokenizer with one token a character."""

    eos_token_id = EOS
    bos_token_id = None
    chat_template = None
    all_special_ids = (EOS,)

    def __call__(self, text, **_):
        return {"input_ids": [ord(c) for c in text]}


def make_records(n=3):
    return [Record.from_text(f"r{i}", f"ask {i}", "yes" * (i + 1)) for i in range(n)]


def build(records, loss_weights, max_length=200):
    return build_training_rows(records, loss_weights, Renderer(Letters(), "paper", max_length))


def test_labels_cover_the_completion_and_its_end_and_nothing_else():
    rows = build(make_records(), {"r0": 0.5, "r1": 1.5, "r2": 1.0}).rows
    features = rows[1].features()
    learned = [token for token in features["labels"].tolist() if token != IGNORE_INDEX]
    assert "".join(map(chr, learned[:-1])) == " yesyes"
    assert learned[-1] == EOS
    assert features["loss_weight"] == 1.5
    n_prompt = len("Human: ask 1; Assistant:")
    assert features["labels"][:n_prompt].eq(IGNORE_INDEX).all()
    assert torch.equal(features["labels"][n_prompt:], features["input_ids"][n_prompt:])


def test_weights_are_joined_by_id_whatever_the_order():
    rows = build(make_records(), {"other": 9.0, "r2": 3.0, "r0": 1.0, "r1": 2.0}).rows
    assert {row.id: row.loss_weight for row in rows} == {"r0": 1.0, "r1": 2.0, "r2": 3.0}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"r0": 1.0}, "2 of 3 records have no loss weight: 'r1', 'r2'"),
        ({"r0": 1.0, "r1": float("nan"), "r2": 1.0}, "must be finite and at least 0. Got others for 'r1'"),
        ({"r0": 1.0, "r1": -0.1, "r2": 1.0}, "must be finite and at least 0. Got others for 'r1'"),
        ({"r0": 0.0, "r1": 0.0, "r2": 0.0}, "nothing to learn"),
    ],
)
def test_unusable_weights_are_refused(weights, message):
    with pytest.raises(DataError, match=message):
        build(make_records(), weights)


def test_repeated_ids_are_refused():
    records = [*make_records(), *make_records(1)]
    with pytest.raises(DataError, match="Got twice: 'r0'"):
        build(records, {"r0": 1.0, "r1": 1.0, "r2": 1.0})


def test_rows_without_a_token_to_learn_are_dropped_and_named(monkeypatch):
    monkeypatch.setattr(Letters, "eos_token_id", None)
    records = [*make_records(2), Record.from_text("vanishes", "ask", "")]
    monkeypatch.setattr(Letters, "__call__", lambda self, text, **_: _ids(text))
    result = build(records, {"r0": 1.0, "r1": 1.0, "vanishes": 1.0})
    assert list(result.dropped) == ["vanishes"]
    assert "that adds no token" in result.dropped["vanishes"]
    assert [row.id for row in result.rows] == ["r0", "r1"]


def _ids(text):
    return {"input_ids": [ord(c) for c in text.rstrip()]}


def test_no_row_left_is_an_error(monkeypatch):
    monkeypatch.setattr(Letters, "eos_token_id", None)
    monkeypatch.setattr(Letters, "__call__", lambda self, text, **_: _ids(text))
    with pytest.raises(DataError, match="nothing to learn: of 1 records, 1 cannot be trained on.*that adds no token"):
        build([Record.from_text("vanishes", "ask", "")], {"vanishes": 1.0})


def test_long_rows_keep_some_completion_and_are_named():
    records = [Record.from_text("long", "x" * 500, "y" * 500), *make_records(1)]
    result = build(records, {"long": 1.0, "r0": 1.0}, max_length=64)
    assert result.truncated == ("long",)
    assert len(result.rows[0].input_ids) == 64
    assert result.rows[0].learned.tolist() == [False] * 32 + [True] * 32


def test_order_depends_on_seed_and_epoch_alone():
    rows = build(make_records(3) + [Record.from_text(f"s{i}", "a", "b") for i in range(20)], _ones(23)).rows

    def order(seed, epoch):
        dataset = ShuffledRows(rows, seed=seed)
        dataset.set_epoch(5)
        dataset.set_epoch(epoch)
        return [tuple(dataset[i]["input_ids"].tolist()) + (dataset._order[i],) for i in range(len(dataset))]

    assert order(0, 0) == order(0, 0)
    assert sorted(order(0, 0)) == sorted(order(0, 1)) == sorted(order(1, 0))
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def grouped_rows(n, seed=0):
    """Rows of many lengths; a row's first token is its place."""
    lengths = torch.randint(2, 400, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    learned = [torch.arange(length) > 0 for length in lengths]
    return [TrainingRow(f"r{i}", torch.full((len(learned[i]),), i), learned[i], 1.0) for i in range(n)]


def batches_of(rows, size, *, seed=0, epoch=0, group=None):
    dataset = ShuffledRows(rows, seed=seed, group=size if group is None else group)
    dataset.set_epoch(epoch)
    order = [int(dataset[i]["input_ids"][0]) for i in range(len(dataset))]
    return [order[start : start + size] for start in range(0, len(order), size)]


def padded(rows, batches):
    lengths = [[len(rows[i].input_ids) for i in batch] for batch in batches]
    return sum(max(batch) * len(batch) for batch in lengths) / sum(map(sum, lengths)) - 1


@pytest.mark.parametrize("n", [1, 3, 8, 803, 1000])
def test_grouped_batches_hold_every_row_once_in_an_order_of_seed_and_epoch(n):
    rows = grouped_rows(n)
    batches = batches_of(rows, 8)
    assert sorted(i for batch in batches for i in batch) == list(range(n))
    assert batches == batches_of(rows, 8)
    if n > 8:
        assert len({str(batches_of(rows, 8, seed=s, epoch=e)) for s in (0, 1) for e in (0, 1)}) == 4


def test_grouped_batches_hardly_pad_and_come_in_random_order():
    rows = grouped_rows(1003)
    batches = batches_of(rows, 8)
    assert padded(rows, batches) < 0.05 < 0.5 < padded(rows, batches_of(rows, 8, group=1))
    longest = torch.tensor([max(len(rows[i].input_ids) for i in batch) for batch in batches[:-1]])
    assert abs(float(torch.corrcoef(torch.stack([longest, torch.arange(len(longest))]).float())[0, 1])) < 0.3


def test_one_row_a_batch_is_never_regrouped():
    rows = grouped_rows(30)
    assert batches_of(rows, 1) == batches_of(rows, 1, group=1)


def _ones(n):
    return {**{f"r{i}": 1.0 for i in range(n)}, **{f"s{i}": 1.0 for i in range(n)}}


def feature(**columns):
    return {"input_ids": [5, 6, 7], "labels": [IGNORE_INDEX, 6, 7], "loss_weight": 0.5, **columns}


def test_collator_pads_on_the_right_and_keeps_the_weight():
    short = {"input_ids": torch.tensor([8]), "labels": torch.tensor([8]), "loss_weight": torch.tensor(2.0)}
    batch = WeightedCollator(pad_token_id=0, pad_to_multiple_of=4)([feature(), short])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100], [8, -100, -100, -100]]
    assert batch["loss_weight"].tolist() == [0.5, 2.0]


def test_collator_keeps_a_mask_of_the_users_own():
    batch = WeightedCollator(pad_token_id=0)([feature(attention_mask=[0, 1, 1])])
    assert batch["attention_mask"].tolist() == [[0, 1, 1]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"position_ids": [0, 1, 0]}, "packed rows cannot be weighted.*position_ids"),
        ({"seq_lengths": [2, 1]}, "packed rows cannot be weighted.*seq_lengths"),
        ({"pixel_values": [0.0]}, "does not know how to pad pixel_values"),
        ({"labels": [1, 2]}, "equal lengths"),
        ({"loss_weight": [0.5, 0.5, 0.5]}, "one finite number a row"),
        ({"loss_weight": float("inf")}, "one finite number a row"),
    ],
)
def test_collator_refuses_what_it_cannot_weigh(columns, message):
    with pytest.raises(DataError, match=message):
        WeightedCollator(pad_token_id=0)([feature(**columns)])


@pytest.mark.parametrize("column", ["input_ids", "labels", "loss_weight"])
def test_collator_names_a_missing_column(column):
    row = feature()
    del row[column]
    with pytest.raises(DataError, match=f"a row lacks {column}"):
        WeightedCollator(pad_token_id=0)([row])
