import bz2
import gzip
import lzma

import pyarrow as pa
import pytest
from reading import GOOD, good, load, load_with_bad, write_jsonl

from sotune.errors import DataError


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd, "zstd": zstd}
NAMES = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd", "zstd": "zstd"}


def plain(tmp_path):
    return write_jsonl(tmp_path / "plain.jsonl", *(good(i, noise=i * 7919 % 1009) for i in range(500)))


@pytest.fixture(params=PACKERS)
def packed(request, tmp_path):
    """The suffix, the bytes and the path of a compressed file."""
    data = PACKERS[request.param](plain(tmp_path).read_bytes())
    path = tmp_path / f"a.jsonl.{request.param}"
    path.write_bytes(data)
    return request.param, data, path


def test_a_compressed_file_is_read_as_the_plain_one(packed, tmp_path):
    assert load(packed[2]).records == load(plain(tmp_path)).records


def test_compression_is_known_by_the_content(packed, tmp_path):
    other = tmp_path / "b.jsonl"
    other.write_bytes(packed[1])
    assert load(other).records == load(packed[2]).records


def test_a_plain_file_under_the_name_of_a_compressed_one(tmp_path):
    assert len(load(plain(tmp_path).rename(tmp_path / "a.jsonl.zst")).records) == 500


def test_parts_packed_apart_and_joined_are_all_read(packed):
    packed[2].write_bytes(packed[1] * 2)
    assert len(load(packed[2]).records) == 1000


@pytest.mark.parametrize("damage", ["short", "middle", "start"])
def test_damaged_data_is_refused(packed, damage):
    suffix, data, path = packed
    if damage == "middle" and NAMES[suffix] == "zstd":
        pytest.skip("the stream of pyarrow holds no checksum")
    changed = bytearray(data)
    changed[len(data) // 2] ^= 0xFF
    path.write_bytes({"short": data[: len(data) // 2], "start": data[:12], "middle": bytes(changed)}[damage])
    with pytest.raises(DataError, match=rf"the {NAMES[suffix]} data is cut short or damaged .* again"):
        load_with_bad(path)


def test_a_frame_to_skip_is_skipped(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstd(plain(tmp_path).read_bytes()))
    assert len(load(path).records) == 500


def test_a_text_that_begins_like_bzip2_is_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("BZh9,prompt,completion\nx,a,b\n")
    assert load(path).records[0].meta == {"BZh9": "x", "prompt": "a", "completion": "b"}


def test_a_pointer_of_git_lfs_is_refused_with_the_command_that_fetches_it(tmp_path):
    for name in ("a.jsonl", "a.parquet", "a.csv"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        with pytest.raises(DataError, match="is a Git LFS pointer and not the data itself; .* git lfs pull"):
            load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a.xlsx", "is a spreadsheet; save it as CSV"),
        ("a.XLS", "is a spreadsheet"),
        ("a.ods", "is a spreadsheet"),
        ("a.pkl", "is a pickle, which is never opened"),
        ("a.jsonl.zip", "is an archive; unpack it"),
        ("a.tar.gz", "is an archive"),
        ("a.jsonl.lz4", "not a file of a known kind; known suffixes are .* also with .gz, .bz2, .xz, .zst or .zstd"),
    ],
)
def test_other_kinds_are_refused_with_what_to_do(tmp_path, name, remedy):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(DataError, match=remedy):
        load(tmp_path / name)


def test_reading_zstd_is_the_only_text_that_needs_another_library(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", GOOD)
    packed = tmp_path / "a.jsonl.zst"
    packed.write_bytes(zstd(path.read_bytes()))
    assert load(packed).records == load(path).records
