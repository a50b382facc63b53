"""What runs share: a text that one run has encoded is not encoded again by another."""

import os
import shutil
from pathlib import Path

import pytest

from sotune.artifacts import read_json
from sotune.representations import FrozenCausalLM, RepresentationCache, shared_cache


@pytest.fixture
def encoded(monkeypatch):
    """The number of rows of each forward pass from now on."""
    sizes, original = [], FrozenCausalLM.encode_batch

    def noting(self, inputs, readings):
        sizes.append(len(inputs))
        return original(self, inputs, readings)

    monkeypatch.setattr(FrozenCausalLM, "encode_batch", noting)
    return sizes


def shards(folder):
    return {path.name: path for path in Path(folder).rglob("shard-*.safetensors")}


def weights(folder):
    return (Path(folder) / "weights.parquet").read_bytes()


def test_tests_share_nothing_with_their_user():
    assert not shared_cache().is_relative_to(Path.home() / ".cache")


def test_automatic_choice_encodes_no_row_twice(cli, flags, tmp_path, encoded, monkeypatch):
    monkeypatch.setattr("sotune.pipeline.choosing.SAMPLE_ROWS", 30)
    assert cli("weigh", *flags, "--no-prompt-control").exit_code == 0
    keys = set(_keys(tmp_path / "run"))
    assert sum(encoded) == len(keys)


def _keys(run):
    from sotune.run_files import REPRESENTATIONS

    return REPRESENTATIONS.columns_of(run, "key")["key"]


def test_another_run_with_other_settings_encodes_nothing(cli, flags, tmp_path, encoded):
    assert cli("weigh", *flags).exit_code == 0
    assert sum(encoded) > 0
    encoded.clear()
    other = [*flags[:-1], str(tmp_path / "other")]
    assert cli("weigh", *other, "--epsilon", "0.2", "--seed", "5").exit_code == 0
    assert cli("weigh", *flags[:-1], str(tmp_path / "same")).exit_code == 0
    assert encoded == []
    assert weights(tmp_path / "same") == weights(tmp_path / "run") != weights(tmp_path / "other")


def test_rows_that_are_added_are_encoded_alone(cli, flags, tmp_path, data, encoded):
    assert cli("weigh", *flags, "--layer", "2", "--pooling", "last", "--no-prompt-control").exit_code == 0
    encoded.clear()
    with (data / "train.jsonl").open("a") as file:
        file.write('{"id": "new", "prompt": "What is new?", "response": "This row.", "label": "benign"}\n')
    other = [*flags[:-1], str(tmp_path / "other"), "--layer", "2", "--pooling", "last", "--no-prompt-control"]
    assert cli("weigh", *other).exit_code == 0
    assert encoded == [1]


def test_a_run_folder_stays_whole_without_the_cache(cli, flags, tmp_path, encoded):
    assert cli("weigh", *flags).exit_code == 0
    shutil.rmtree(shared_cache())
    encoded.clear()
    result = cli("weigh", *flags, "--epsilon", "0.2", "--no-prompt-control")
    assert result.exit_code == 0, result.output
    assert encoded == []
    outputs = read_json(tmp_path / "run" / "representations.manifest.json")["outputs"]
    assert any(name.startswith("representations/") for name in outputs)


def test_what_a_run_has_takes_no_space_of_its_own(cli, flags, tmp_path):
    assert cli("extract", *flags).exit_code == 0
    own, shared = shards(tmp_path / "run"), shards(shared_cache())
    assert own
    assert all(path.samefile(shared[name]) for name, path in own.items())


def test_where_links_cannot_be_made_shards_are_copied(cli, flags, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert cli("weigh", *flags).exit_code == 0
    own, shared = shards(tmp_path / "run"), shards(shared_cache())
    assert all(path.read_bytes() == shared[name].read_bytes() for name, path in own.items())


@pytest.mark.parametrize("how", ["flag", "read-only"])
def test_without_a_shared_cache_all_lies_in_the_run(cli, flags, tmp_path, monkeypatch, how):
    if how == "read-only":  # a file stands where the folder would be
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("SOTUNE_CACHE", str(tmp_path / "file"))
    assert cli("weigh", *flags, *(["--no-cache"] if how == "flag" else [])).exit_code == 0
    assert not shared_cache().exists()
    assert shards(tmp_path / "run" / "representations")


def test_two_processes_that_compute_the_same_shards_both_succeed(tmp_path, tiny_model):
    import subprocess
    import sys

    script = (
        "import sys\nfrom pathlib import Path\nfrom sotune.models import ModelSpec\nfrom sotune.records import Record\n"
        "from sotune.representations import *\nfrom sotune.settings import RenderingSettings\n"
        "spec = ModelSpec(sys.argv[1], dtype='float32', device='cpu')\n"
        "model = FrozenCausalLM(spec, RenderingSettings(template='paper', max_length=256), batch_tokens=200)\n"
        "encoder = CausalLMEncoder(model, layer=-1, pooling='last')\n"
        "rows = [Record.from_text(str(i), 'sea ' * (1 + i % 50), f'wide {i}') for i in range(200)]\n"
        "encoder.encode(rows[:1])\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        "encoded = encode_with_cache(encoder, rows, RepresentationCache(Path(sys.argv[2])), shard_rows=20)\n"
        "print(encoded.values.double().sum().item(), encoded.shards)\n"
    )
    command = [sys.executable, "-c", script, str(tiny_model("llama")), str(tmp_path / "cache")]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ})
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told[0] == told[1]
    (fingerprint,) = (path.name for path in (tmp_path / "cache").iterdir())
    assert len(RepresentationCache(tmp_path / "cache").index(fingerprint)) == 200
    assert not [path for path in (tmp_path / "cache").rglob(".*")]
