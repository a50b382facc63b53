"""Run folders: atomic files, manifests, and the rule by which a stage is skipped, resumed or run again.

A stage writes its files first, each through a temporary file and a rename, and its manifest last. The manifest
holds the *key* of the stage (everything that its output depends on) and the SHA-256 of each output. On the next
run a stage whose manifest matches is skipped, one without a manifest is resumed, and one whose key differs runs
again, with all those after it, since their keys contain its outputs' digests. A process may thus be killed at
any moment.

What a manifest lists is checked against its digest whenever it is read, and the manifest against its own. A folder may
come from anywhere: no link in it is followed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from importlib import metadata
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar

from filelock import FileLock, Timeout

from sotune.errors import ArtifactError, first_line
from sotune.integrity import HeldFile, check_contained, is_unchanged, unchanged
from sotune.integrity import sha256_file as sha256_file

if TYPE_CHECKING:
    import pyarrow as pa

Item = TypeVar("Item")
MARKER = ".sotune-run"
LOCK = ".lock"
_MANIFEST = ".manifest.json"
_SEAL = "sha256"  # of the rest of a manifest
_TEMPORARY = re.compile(r"\..+-[a-z0-9_]{8}\.tmp(\.[^.]+)?")
FORMAT = 2
TABLE_ROWS = 8192
"""Rows of a table that are written, and can be read, together."""
CACHE_VARIABLE = "SOTUNE_CACHE"
"""Environment variable: the folder of all that runs share. Default: ``~/.cache/sotune``."""


def cache_folder(name: str) -> Path:
    """Returns a folder of what all runs share: representations, or the models and rows of a world."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "sotune") / name


def sha256_text(text: str) -> str:
    """Returns the SHA-256 of a text's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_json(value: Any) -> str:
    """Returns the SHA-256 of a JSON value in canonical form, in hexadecimal."""
    return sha256_text(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True))


def library_versions(*names: str) -> dict[str, str]:
    """Returns the installed version of each distribution, without importing it."""
    return {name: metadata.version(name) for name in names}


_DISK_FAULTS = re.compile(
    r"no space left|disk quota|file too large|read-only file system|input/output error|PytorchStreamWriter failed|"
    r"inline_container",  # the last two are PyTorch's
    re.IGNORECASE,
)
"""How the libraries that write files put what the system said; most of them keep no number of it."""


@contextlib.contextmanager
def disk_faults_told(folder: Path) -> Iterator[None]:
    """Turns what a full, read-only or broken disk makes any library raise into one error.

    Raises:
        ArtifactError: Something could not be written.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ArtifactError) or (fault := _disk_fault(error)) is None:
            raise
        raise ArtifactError(
            f"something could not be written for {folder} ({fault}); free or mend the disk and run the same command "
            f"again: it goes on where it stopped"
        ) from None


def _disk_fault(error: BaseException | None) -> str | None:
    """Returns what the system said, wherever in a chain of errors; None where it is about no disk."""
    while error is not None:
        if found := _DISK_FAULTS.search(str(error)):
            return found[0].lower()
        error = error.__cause__ or error.__context__
    return None


_OF_VALUES = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, MemoryError)
"""What readers raise of a value that is missing or of another kind than they wrote."""


@contextlib.contextmanager
def contents_told(folder: Path) -> Iterator[None]:
    """Turns what values that sotune would not write make any reader of a run raise into one error.

    Seals tell only that a folder is as its last author left it, and that may be somebody who sealed it anew.

    Raises:
        ArtifactError: A file of the folder holds such a value.
    """
    try:
        yield
    except _OF_VALUES as error:
        raise ArtifactError(
            f"{folder} holds values that sotune did not write ({type(error).__name__}: {first_line(error)[:200]}); get "
            f"or make it again. If nobody else wrote to it and `sotune verify` finds nothing, it is a mistake of ours"
        ) from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; renames it to ``path`` when the block ends well.

    The temporary file keeps the suffix of ``path``, since some writers choose a format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=f".tmp{path.suffix}")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically, with sorted keys and a final newline."""
    write_text(path, _json_text(value))


def _json_text(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        ArtifactError: The file is missing or is not JSON.
    """
    return _read_json(path, ())


def _read_json(path: Path, digests: Collection[str]) -> Any:
    try:
        with unchanged(path, digests) as file:
            return json.loads(file.read().decode("utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; run the stage that writes it first") from None
    except (ValueError, OSError, RecursionError) as error:
        raise ArtifactError(f"{path} is not readable JSON ({error}); delete it and run again") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no value of JSON")


def _umask() -> int:
    """Returns the permissions that the user's umask takes away; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


class RunFolder:
    """One run's folder: its files, its manifests, its lock.

    Args:
        path: The folder; made when it does not exist.

    Raises:
        ArtifactError: The path is a file, or a folder with content that no run of sotune left, or cannot be made; or
            something in it leads out of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise ArtifactError(f"{path} is a file; name a folder for --out")
        if path.is_dir() and not (path / MARKER).exists() and not _is_empty(path):
            raise ArtifactError(
                f"{path} is not empty and is not a run folder of sotune; name a new folder for --out, "
                f"so that nothing of yours is overwritten"
            )
        try:
            if path.is_dir():
                check_contained(path)
            path.mkdir(parents=True, exist_ok=True)
            if not (path / MARKER).exists():
                write_json(path / MARKER, {"format": FORMAT})
            _check_marker(path / MARKER)
        except OSError as error:
            raise ArtifactError(
                f"{path} could not be created ({error.strerror}); name another folder for --out"
            ) from error

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Opens a run folder that exists.

        Raises:
            ArtifactError: There is none at the path.
        """
        if not (path / MARKER).exists():
            raise ArtifactError(f"{path} is not a run folder of sotune; name the --out of an earlier command")
        return cls(path)

    def __fspath__(self) -> str:
        return str(self.path)

    def file(self, name: str) -> Path:
        """Returns the path of a file of the run."""
        return self.path / name

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for one process; released by the system when the process dies.

        Removes the temporary files that a process killed while writing left behind.

        Raises:
            ArtifactError: Another process holds it.
        """
        lock = FileLock(self.path / LOCK, timeout=0)  # of no hidden state: it goes with the process
        try:
            lock.acquire()
        except Timeout:
            raise ArtifactError(
                f"another process is using {self.path}; wait for it to finish, or name another folder for --out"
            ) from None
        except OSError as error:
            raise ArtifactError(
                f"{self.path / LOCK} cannot be locked ({error.strerror or error}); the folder must be writable, and "
                f"{LOCK} in it no link"
            ) from error
        try:
            for leftover in list(self.path.rglob(".*.tmp*")):
                if is_temporary(leftover):
                    leftover.unlink()
            yield
        finally:
            lock.release()

    def manifest_path(self, stage: str) -> Path:
        """Returns where the manifest of a stage lies."""
        return self.path / f"{stage}{_MANIFEST}"

    def is_current(self, stage: str, key: Mapping[str, Any]) -> bool:
        """Tells whether a stage's outputs are there, unchanged, and made under the same key."""
        if not self.manifest_path(stage).exists():
            return False
        manifest = self.manifest(stage)
        if manifest["format"] != FORMAT or manifest["key"] != json.loads(json.dumps(key)):
            return False
        return not self.damaged(stage)

    def damaged(self, stage: str) -> list[str]:
        """Returns the outputs of a finished stage that are missing or hold something else than was written."""
        if not self.manifest_path(stage).exists():
            return []
        return [name for name, digest in self.digests(stage).items() if not is_unchanged(self.path / name, digest)]

    def commit(self, stage: str, key: Mapping[str, Any], outputs: Sequence[str]) -> None:
        """Writes the manifest of a finished stage."""
        digests = {name: sha256_file(self.path / name) for name in outputs}
        _write_manifest(self.manifest_path(stage), {"format": FORMAT, "stage": stage, "key": key, "outputs": digests})

    def commit_config(self, artefact: Json, value: Mapping[str, Any]) -> None:
        """Writes the settings with a manifest of their own: they change with every verb, what stages depend on not."""
        stage = Path(artefact.name).stem
        self.discard(stage)  # so that a process killed between the two leaves no digest that is wrong
        self.commit(stage, {}, [artefact.write(self, value)])

    def discard(self, stage: str) -> None:
        """Removes a stage's manifest, so that the stage counts as unfinished while it is written again."""
        self.manifest_path(stage).unlink(missing_ok=True)

    def digests(self, stage: str) -> dict[str, str]:
        """Returns the SHA-256 of each output of a finished stage: what the next stage's key holds.

        Raises:
            ArtifactError: The stage has not finished.
        """
        outputs: dict[str, str] = self.manifest(stage)["outputs"]
        return outputs

    def stages(self) -> list[str]:
        """Returns the names of all finished stages."""
        return sorted(path.name.removesuffix(_MANIFEST) for path in self.path.glob(f"*{_MANIFEST}"))

    def manifest(self, stage: str) -> dict[str, Any]:
        """Returns the manifest of a finished stage: ``key`` and ``outputs``, the SHA-256 of each.

        Raises:
            ArtifactError: The stage has not finished, or its manifest was changed.
        """
        return _read_manifest(self.manifest_path(stage))

    def checked(self, name: str) -> Path:
        """Returns the path of a file of the run for a reader of another library.

        Raises:
            ArtifactError: It is missing, or is not what was written.
        """
        path = self.path / name
        try:
            with unchanged(path, listed_digests(self.path, name)):
                return path
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read ({error.strerror}); run the command that writes it") from error


def listed_digests(folder: Path, name: str) -> tuple[str, ...]:
    """Returns what a file of a folder may hold, by the folder's manifests; empty where they do not list it.

    Raises:
        ArtifactError: A manifest was changed.
    """
    listed = {_read_manifest(found)["outputs"].get(name) for found in folder.glob(f"*{_MANIFEST}")} - {None}
    return (*listed, *_written.get((folder / name).absolute(), ())) if listed else ()


_written: dict[Path, tuple[str]] = {}
"""What this process wrote last of each artefact: while a stage works anew, the manifest of its last work still lies."""


def _write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    plain = json.loads(json.dumps(manifest))
    write_json(path, {**plain, _SEAL: sha256_json(plain)})


def _read_manifest(path: Path) -> dict[str, Any]:
    """Reads a manifest, and checks that it is as it was written and names no file elsewhere."""
    manifest: Any = read_json(path)
    parts = [manifest.get(name) for name in ("key", "outputs")] if isinstance(manifest, dict) else [None]
    if not all(isinstance(part, dict) for part in parts) or not isinstance(manifest.get("format"), int):
        raise ArtifactError(f"{path} is not a manifest of sotune; delete it and run again")
    found: dict[str, Any] = manifest
    outputs, upstream = found["outputs"], found["key"].get("upstream", {})
    if not isinstance(upstream, dict) or not all(isinstance(digest, str) for digest in upstream.values()):
        raise ArtifactError(f"{path} is not a manifest of sotune; delete it and run again")
    if not all(isinstance(digest, str) and _is_inside(name) for name, digest in outputs.items()):
        raise ArtifactError(f"{path} lists files outside its folder; delete it and run again")
    if found["format"] == FORMAT:  # others had no seal
        seal = found.pop(_SEAL, None)
        if seal != sha256_json(found) or path.read_text(encoding="utf-8") != _json_text({**found, _SEAL: seal}):
            raise ArtifactError(f"{path} was changed since it was written; delete it and run again")
    return found


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not PurePosixPath(name).is_absolute() and ".." not in parts and "\\" not in name


def _check_marker(path: Path) -> None:
    """Raises an ArtifactError where the marker of a run folder is not one that this version or an earlier wrote."""
    if path.read_text(encoding="utf-8", errors="replace") not in [
        _json_text({"format": version}) for version in range(1, FORMAT + 1)
    ]:
        raise ArtifactError(
            f"{path} is damaged or a newer version's; update sotune, or delete the file if you know the folder"
        )


def is_temporary(path: Path) -> bool:
    """Tells whether ``atomic_path`` made a file."""
    return path.is_file() and _TEMPORARY.fullmatch(path.name) is not None


def _is_empty(folder: Path) -> bool:
    """Tells whether a folder holds nothing but what a process killed at its very start left behind."""
    return all(is_temporary(path) for path in folder.iterdir())


@dataclass(frozen=True)
class _Artefact:
    """A file of a folder.

    Attributes:
        name: The file.
        verb: The command that writes it.
    """

    name: str
    verb: str = field(kw_only=True)

    def named(self, name: str) -> Self:
        """Returns the same kind of file under another name."""
        return replace(self, name=name)

    def _opened(self, folder: str | PathLike[str]) -> AbstractContextManager[IO[bytes]]:
        """Opens the file, checked against what the folder's manifests say."""
        return unchanged(Path(folder) / self.name, listed_digests(Path(folder), self.name))

    def _noted(self, folder: str | PathLike[str]) -> str:
        path = Path(folder) / self.name
        _written[path.absolute()] = (sha256_file(path),)
        return self.name

    def _missing(self, path: Path) -> ArtifactError:
        return ArtifactError(f"{path} is missing; run `sotune {self.verb}` first")

    def _broken(self, path: Path, fault: str) -> ArtifactError:
        return ArtifactError(f"{path} {fault}; delete it and run `sotune {self.verb}` again")


@dataclass(frozen=True)
class Table(_Artefact):
    """A Parquet file.

    Attributes:
        columns: Column name to Arrow type, ``string`` or ``float64``; ``string[]`` is a list of them, and ``string?``
            may be null.
    """

    columns: Mapping[str, str]

    def write(self, folder: str | PathLike[str], columns: Mapping[str, Any]) -> str:
        """Writes the table, its columns in the order of the schema; returns its file name.

        Args:
            folder: Where to.
            columns: Column name to values; those that may be null may be left out.

        Raises:
            ArtifactError: The columns are others than the table's, differ in length, or do not fit their types.
        """
        return self.write_parts(folder, (columns,))

    def write_parts(self, folder: str | PathLike[str], parts: Iterable[Mapping[str, Any]]) -> str:
        """Writes the table part by part, so that one alone is in memory; see `write`."""
        with self.writing(folder) as writer:
            for columns in parts:
                writer.add(columns)
        return self.name

    def write_rows(self, folder: str | PathLike[str], rows: Iterable[Mapping[str, Any]]) -> str:
        """Writes the table from rows, each by column name, some thousands at a time; see `write`."""
        parts = batched(rows, TABLE_ROWS)
        return self.write_parts(folder, ({name: [row[name] for row in part] for name in part[0]} for part in parts))

    @contextlib.contextmanager
    def writing(self, folder: str | PathLike[str]) -> Iterator[TableWriter]:
        """Yields what writes the table part by part; the file is there when the block ends well."""
        with atomic_path(Path(folder) / self.name) as temporary:
            writer = TableWriter(self, temporary)
            try:
                yield writer
            finally:
                writer.close()
        self._noted(folder)

    def as_arrow(self, columns: Mapping[str, Any]) -> pa.Table:
        """Returns columns as the table has them.

        Raises:
            ArtifactError: The columns are others than the table's, differ in length, or do not fit their types.
        """
        import pyarrow as pa

        needed = {name for name, kind in self.columns.items() if not kind.endswith("?")}
        odd = (needed - columns.keys()) | (columns.keys() - self.columns.keys())
        if odd:
            raise ArtifactError(
                f"{self.name} must have the columns {list(self.columns)}; these are amiss: {sorted(odd)}"
            )
        empty = [None] * len(next(iter(columns.values())))
        try:
            table = pa.table({name: columns.get(name, empty) for name in self.columns}, schema=self.schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise ArtifactError(f"{self.name} does not fit its columns {dict(self.columns)}: {error}") from error
        if nulls := sorted(name for name in needed if table.column(name).null_count):
            raise ArtifactError(f"{self.name} does not fit its columns {dict(self.columns)}: {nulls} hold nulls")
        return table

    @property
    def schema(self) -> pa.Schema:
        """The columns and their types."""
        import pyarrow as pa

        return pa.schema([(name, _arrow_type(kind)) for name, kind in self.columns.items()])

    def parts_of(
        self, folder: str | PathLike[str], *names: str, where: Mapping[str, Iterable[Any]] | None = None
    ) -> Iterator[pa.Table]:
        """Yields some columns part by part, so that a few thousand rows are in memory; see `read`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path, wanted = Path(folder) / self.name, names or tuple(self.columns)
        if not path.exists():
            raise self._missing(path)
        asked = {name: self._among(name, values) for name, values in (where or {}).items()}
        try:
            with self._opened(folder) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
                faults = [name for name in {*wanted, *asked} if not self._fits(parquet.schema_arrow, name)]
                if faults:
                    raise self._broken(path, f"lacks the columns {sorted(faults)} or their types")
                for number in range(parquet.num_row_groups):
                    found = _read_part(parquet, number, wanted, asked)
                    if found is not None:
                        yield found
        except (pa.ArrowException, OSError) as error:
            raise self._broken(path, f"is not readable Parquet ({error})") from error

    def read(
        self, folder: str | PathLike[str], *names: str, where: Mapping[str, Iterable[Any]] | None = None
    ) -> pa.Table:
        """Reads some columns, all unless some are named, of the rows whose values are among those of ``where``.

        Raises:
            ArtifactError: The file is missing, is not Parquet, or lacks a column or its type.
        """
        import pyarrow as pa

        wanted = names or tuple(self.columns)
        parts = [*self.parts_of(folder, *wanted, where=where)]
        fields = [(name, _arrow_type(self.columns[name])) for name in wanted]
        return pa.concat_tables(parts) if parts else pa.schema(fields).empty_table()

    def columns_of(
        self, folder: str | PathLike[str], *names: str, where: Mapping[str, Iterable[Any]] | None = None
    ) -> dict[str, list[Any]]:
        """Reads columns as lists; see `read`."""
        columns: dict[str, list[Any]] = self.read(folder, *names, where=where).to_pydict()
        return columns

    def rows_of(
        self, folder: str | PathLike[str], *names: str, where: Mapping[str, Iterable[Any]] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yields rows, each by column name, of which a few thousand are in memory; see `read`."""
        for part in self.parts_of(folder, *names, where=where):
            yield from part.to_pylist()

    def hold(self, folder: str | PathLike[str]) -> HeldTable:
        """Opens the table to read parts of it in any order; it must not change meanwhile.

        Raises:
            ArtifactError: The file is missing, is not Parquet, or lacks a column or its type.
        """
        import pyarrow as pa

        path = Path(folder) / self.name
        try:
            held = HeldTable(HeldFile(path, listed_digests(Path(folder), self.name)))
        except FileNotFoundError:
            raise self._missing(path) from None
        except (pa.ArrowException, OSError) as error:
            raise self._broken(path, f"is not readable Parquet ({error})") from error
        if faults := [name for name in self.columns if not self._fits(held.schema, name)]:
            raise self._broken(path, f"lacks the columns {sorted(faults)} or their types")
        return held

    def _among(self, name: str, values: Iterable[Any]) -> pa.Array:
        import pyarrow as pa

        return pa.array(list(values), type=_arrow_type(self.columns[name]))

    def _fits(self, schema: pa.Schema, name: str) -> bool:
        return name in schema.names and schema.field(name).type == _arrow_type(self.columns[name])


class TableWriter:
    """Writes a table part by part, each in groups of rows that can be read alone.

    Args:
        table: Its columns.
        path: Where to.
    """

    def __init__(self, table: Table, path: Path) -> None:
        import pyarrow.parquet as pq

        self._table, self.path = table, path
        self._writer = pq.ParquetWriter(path, table.schema)
        self._is_empty = True

    def add(self, columns: Mapping[str, Any]) -> None:
        """Writes some rows; see `Table.write`."""
        self._writer.write_table(self._table.as_arrow(columns), row_group_size=TABLE_ROWS)
        self._is_empty = False

    def close(self) -> None:
        """Ends the file, which can then be read."""
        if self._is_empty:
            self._writer.write_table(self._table.schema.empty_table())
            self._is_empty = False
        self._writer.close()


class HeldTable:
    """A table that stays open and is read part by part, in any order, also by several threads.

    Attributes:
        starts: Number of rows before each part, and of all.
    """

    def __init__(self, held: HeldFile) -> None:
        import pyarrow.parquet as pq

        self._held, self._lock = held, threading.Lock()
        self._parquet = pq.ParquetFile(held.file, pre_buffer=False)
        sizes = [self._parquet.metadata.row_group(n).num_rows for n in range(self._parquet.num_row_groups)]
        self.starts = [0, *itertools.accumulate(sizes)]

    @property
    def schema(self) -> pa.Schema:
        """The columns and their types."""
        return self._parquet.schema_arrow

    def part(self, number: int, *names: str) -> pa.Table:
        """Reads some columns of a part.

        Raises:
            ArtifactError: The file is not Parquet there, or was changed since it was opened.
        """
        import pyarrow as pa

        try:
            with self._lock:
                found = _read_part(self._parquet, number, names, {})
                self._held.check()
        except (pa.ArrowException, OSError) as error:
            raise ArtifactError(
                f"{self._held.path} is not readable Parquet ({error}); delete it and run again"
            ) from error
        return found


def _read_part(parquet: Any, number: int, wanted: Sequence[str], asked: Mapping[str, pa.Array]) -> pa.Table | None:
    """Reads the asked rows of a group of rows; ``None``: it has none of them."""
    import pyarrow.compute as pc

    if not asked:
        return parquet.read_row_group(number, columns=[*wanted]).select([*wanted])
    found = parquet.read_row_group(number, columns=[*asked])
    masks = [pc.is_in(found.column(name), value_set=values) for name, values in asked.items()]
    mask = functools.reduce(pc.and_, masks)
    if not pc.any(mask).as_py():
        return None
    return parquet.read_row_group(number, columns=[*wanted]).select([*wanted]).filter(mask)


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yields items in lists of a size, the last of which may be shorter.

    >>> [*batched("abcde", 2)]
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    rest = iter(items)
    while part := [*itertools.islice(rest, size)]:
        yield part


@dataclass(frozen=True)
class Json(_Artefact):
    """A JSON file of one object.

    Attributes:
        shape: The type of what it holds, as pydantic knows types.
    """

    shape: Any = field(default=dict, kw_only=True)

    def write(self, folder: str | PathLike[str], value: Mapping[str, Any]) -> str:
        """Writes the object; returns its file name."""
        write_json(Path(folder) / self.name, value)
        return self._noted(folder)

    def read(self, folder: str | PathLike[str]) -> dict[str, Any]:
        """Reads the object.

        Raises:
            ArtifactError: The file is missing, or holds no JSON object of its shape.
        """
        path = Path(folder) / self.name
        if not path.exists():
            raise self._missing(path)
        value = self.read_if_there(folder)
        if fault := _misfit(value, self.shape):
            raise self._broken(path, f"holds what sotune did not write ({fault})")
        return value

    def read_if_there(self, folder: str | PathLike[str]) -> dict[str, Any]:
        """Reads the object, an empty one where the file is missing: for what shows whatever is there, of any shape."""
        path = Path(folder) / self.name
        if not path.exists():
            return {}
        value = _read_json(path, listed_digests(Path(folder), self.name))
        if not isinstance(value, dict):
            raise self._broken(path, f"must hold a JSON object. Got a {type(value).__name__}")
        return value


@dataclass(frozen=True)
class Lines(_Artefact):
    """A file of JSON lines: one object each.

    Attributes:
        ascii: Whether all other characters are escaped, so that no text can break a line or a terminal.
    """

    ascii: bool = False

    def write(self, folder: str | PathLike[str], rows: Iterable[Mapping[str, Any]]) -> str:
        """Writes the rows; returns the file's name."""
        with atomic_path(Path(folder) / self.name) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=self.ascii) + "\n" for row in rows)
        return self._noted(folder)

    def read(self, folder: str | PathLike[str], *, most: int | None = None) -> list[dict[str, Any]]:
        """Reads the rows, or the first of them.

        Raises:
            ArtifactError: The file is missing, or is not JSON lines.
        """
        path = Path(folder) / self.name
        try:
            with self._opened(folder) as file:
                return [json.loads(line.decode("utf-8")) for line in itertools.islice(file, most)]
        except FileNotFoundError:
            raise self._missing(path) from None
        except (ValueError, RecursionError) as error:
            raise self._broken(path, f"is not readable JSON lines ({error})") from error


def _misfit(value: Any, shape: Any) -> str:
    """Returns where a value has not the type that it must have, and why; empty where it has."""
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(shape).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return ""


def _arrow_type(kind: str) -> pa.DataType:
    import pyarrow as pa

    kind = kind.removesuffix("?")
    return pa.list_(_arrow_type(kind[:-2])) if kind.endswith("[]") else pa.type_for_alias(kind)
