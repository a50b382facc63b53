import datasets
import pytest
from reading import load

from sotune.errors import DataError
from sotune.sources import load_set

COLUMNS = {"prompt": ["a", "b", "c"], "completion": ["x", "y", "z"], "id": [1, 2, 3]}


@pytest.fixture
def hub(monkeypatch):
    """Stands for the Hub: answers with a data set or an error, and keeps what it was asked."""
    calls = []

    def answer_with(answer):
        def load_dataset(*args, **kwargs):
            calls.append((args, kwargs))
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return answer_with


def save(dataset, folder):
    dataset.save_to_disk(str(folder))
    return folder


def test_a_saved_folder(tmp_path):
    folder = save(datasets.Dataset.from_dict(COLUMNS), tmp_path / "set")
    loaded = load(folder)
    assert [record.id for record in loaded.records] == ["1", "2", "3"]
    assert loaded.records[1].meta == {"prompt": "b", "completion": "y", "id": 2}
    assert loaded.records[1].origin == f"{folder}:2"


def test_a_saved_folder_with_splits(tmp_path):
    whole = datasets.Dataset.from_dict(COLUMNS)
    folder = save(datasets.DatasetDict(train=whole, test=whole.select([2, 0])), tmp_path / "set")
    assert [record.id for record in load(folder, split="test").records] == ["3", "1"]
    with pytest.raises(DataError, match="no split 'validation'; it has test, train: name it with --split"):
        load(folder, split="validation")


def test_the_digest_of_a_data_set_is_that_of_its_rows(tmp_path):
    one = load(save(datasets.Dataset.from_dict(COLUMNS), tmp_path / "one"))
    same = load(save(datasets.Dataset.from_dict(COLUMNS), tmp_path / "same"))
    other = load(save(datasets.Dataset.from_dict({**COLUMNS, "completion": ["x", "y", "w"]}), tmp_path / "other"))
    assert one.files[0].sha256 == same.files[0].sha256 != other.files[0].sha256
    assert one.files[0].n_rows == 3


def test_bytes_are_null_and_never_decoded(tmp_path):
    columns = {**COLUMNS, "image": [None, {"bytes": b"\x89PNG", "path": None}, None]}
    dataset = datasets.Dataset.from_dict(columns, features=None).cast_column("image", datasets.Image())
    loaded = load(save(dataset, tmp_path / "set"))
    assert loaded.records[1].meta == {"prompt": "b", "completion": "y", "id": 2, "image": {"bytes": None, "path": None}}
    assert loaded.warnings == (
        f"{tmp_path}/set: values that JSON cannot hold are null, in columns image (a value that JSON cannot hold: "
        f"bytes that are not UTF-8: 1 row)",
    )


@pytest.mark.parametrize("content", [{}, {"notes.txt": "x"}, {"state.json": "{}"}])
def test_a_folder_of_something_else_is_refused(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(
        DataError, match="holds no file of a known kind|is not a folder that save_to_disk of datasets wrote"
    ):
        load(tmp_path)


@pytest.mark.parametrize("source", ["some-owner/some.name", "hf:some-owner/some.name"])
def test_a_name_on_the_hub_never_runs_its_code(hub, source):
    calls = hub(datasets.Dataset.from_dict(COLUMNS))
    loaded = load(source, split="test", revision="abc", subset="main")
    assert calls == [(("some-owner/some.name", "main"), {"split": "test", "revision": "abc"})]
    assert loaded.records[0].origin == f"{source}:1"
    assert loaded.files[0].name == source


def test_a_subset_that_ends_with_a_slash_is_a_folder(hub):
    calls = hub(datasets.Dataset.from_dict(COLUMNS))
    load("some-owner/some-name", subset="one/part/")
    assert calls == [(("some-owner/some-name", None), {"split": "train", "revision": None, "data_dir": "one/part"})]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Couldn't reach it"), "could not be reached: .* may be offline .Couldn't.*save_to_disk"),
        (datasets.exceptions.DatasetNotFoundError("no such\nthing"), "neither a file here nor a data set.*spelling"),
        (RuntimeError("Dataset scripts are no longer supported"), "cannot be loaded .Dataset scripts are no longer"),
        (ValueError("Unknown split"), "cannot be loaded .Unknown split.; check --split and --subset"),
        (datasets.exceptions.DatasetGenerationError(), "cannot be loaded .DatasetGenerationError"),
    ],
)
def test_what_the_hub_refuses_is_a_data_error(hub, error, message):
    hub(error)
    with pytest.raises(DataError, match=message):
        load("some-owner/some-name")


def test_offline_the_message_says_so():
    with pytest.raises(DataError, match="is not a file here, and the Hugging Face Hub could not be reached.*offline"):
        load("some-owner/some-name")


@pytest.mark.parametrize("source", ["hf:", "hf:a/b/c", "hf:/a", "hf: a", "hf:a\nb/c"])
def test_what_no_data_set_is_called_is_not_asked_for(hub, source):
    calls = hub(datasets.Dataset.from_dict(COLUMNS))
    with pytest.raises(DataError, match="names no data set on the Hub; write hf:owner/name"):
        load(source)
    assert calls == []


@pytest.mark.parametrize("source", ["", " ", "https://example.org/train.jsonl", "hf://datasets/owner/name/train.jsonl"])
def test_addresses_are_not_fetched(hub, source):
    with pytest.raises(DataError, match="is neither a file nor the name of a data set; download"):
        load(source)


def test_a_mistyped_path_is_not_taken_for_a_name_on_the_hub(hub, tmp_path, monkeypatch):
    calls = hub(datasets.Dataset.from_dict(COLUMNS))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for source in [
        "data/train",
        "owner/train.jsonl",
        "nothing",
        "./x",
        "../x",
        "a/b/c",
        "/owner/name",
        "owner/x.csv.gz",
    ]:
        with pytest.raises(DataError, match="does not exist; check the path, or write hf:owner/name"):
            load(source)
    assert calls == []


@pytest.mark.parametrize("name", ["../other/data.arrow", "/etc/hostname", "a/b.arrow"])
def test_a_saved_set_names_no_file_elsewhere(name, tmp_path):
    import datasets

    datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}]).save_to_disk(tmp_path / "set")
    state = tmp_path / "set" / "state.json"
    state.write_text(state.read_text().replace("data-00000-of-00001.arrow", name))
    with pytest.raises(DataError, match="names a file elsewhere"):
        load_set(tmp_path / "set", set_name="downstream", max_quarantine_fraction=0)


@pytest.mark.parametrize(
    ("files", "what"), [(["set.py", "a.csv"], "a script"), (["data.zip", "README.md"], "an archive")]
)
def test_a_repository_that_is_a_script_or_an_archive_is_refused(files, what, hub, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *args, **kwargs: files)
    with pytest.raises(DataError, match=f"is loaded by {what}.*never run or unpacked"):
        load_set("hf:owner/set", set_name="downstream", max_quarantine_fraction=0)
