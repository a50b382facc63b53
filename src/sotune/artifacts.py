"""Run folders: atomic files, manifests, and the rule by which a stage is skipped, resumed or run again.

A stage writes its files first, each through a temporary file and a rename, and its manifest last. The manifest
holds the *key* of the stage (everything that its output depends on) and the SHA-256 of each output. On the next
run a stage whose manifest matches is skipped, one without a manifest is resumed, and one whose key differs runs
again, with all those after it, since their keys contain its outputs' digests. A process may thus be killed at
any moment.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import operator
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from sotune.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

_MARKER = ".sotune-run"
_LOCK = ".lock"
_TEMPORARY = re.compile(r"\..+-[a-z0-9_]{8}\.tmp(\.[^.]+)?")
FORMAT = 1


def sha256_text(text: str) -> str:
    """Returns the SHA-256 of a text's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_json(value: Any) -> str:
    """Returns the SHA-256 of a JSON value in canonical form, in hexadecimal."""
    return sha256_text(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True))


def sha256_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def library_versions(*names: str) -> dict[str, str]:
    """Returns the installed version of each distribution, without importing it."""
    return {name: metadata.version(name) for name in names}


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
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        ArtifactError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; run the stage that writes it first") from None
    except (ValueError, OSError, RecursionError) as error:
        raise ArtifactError(f"{path} is not readable JSON ({error}); delete it and run again") from error


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
        ArtifactError: The path is a file, or a folder with content that no run of sotune left, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise ArtifactError(f"{path} is a file; name a folder for --out")
        if path.is_dir() and not (path / _MARKER).exists() and not _is_empty(path):
            raise ArtifactError(
                f"{path} is not empty and is not a run folder of sotune; name a new folder for --out, "
                f"so that nothing of yours is overwritten"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not (path / _MARKER).exists():
                write_json(path / _MARKER, {"format": FORMAT})
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
        if not (path / _MARKER).exists():
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
        lock = FileLock(self.path / _LOCK, timeout=0)  # of no hidden state: it goes with the process
        try:
            lock.acquire()
        except Timeout:
            raise ArtifactError(
                f"another process is using {self.path}; wait for it to finish, or name another folder for --out"
            ) from None
        except OSError as error:
            raise ArtifactError(
                f"{self.path / _LOCK} cannot be locked ({error.strerror or error}); the folder must be writable, and "
                f"{_LOCK} in it no link"
            ) from error
        try:
            for leftover in list(self.path.rglob(".*.tmp*")):
                if _is_temporary(leftover):
                    leftover.unlink()
            yield
        finally:
            lock.release()

    def manifest_path(self, stage: str) -> Path:
        """Returns where the manifest of a stage lies."""
        return self.path / f"{stage}.manifest.json"

    def is_current(self, stage: str, key: Mapping[str, Any]) -> bool:
        """Tells whether a stage's outputs are there, unchanged, and made under the same key."""
        if not self.manifest_path(stage).exists():
            return False
        manifest = self._manifest(stage)
        if manifest.get("format") != FORMAT or manifest.get("key") != json.loads(json.dumps(key)):
            return False
        outputs: dict[str, str] = manifest["outputs"]
        return all(
            (self.path / name).exists() and sha256_file(self.path / name) == digest for name, digest in outputs.items()
        )

    def commit(self, stage: str, key: Mapping[str, Any], outputs: Sequence[str]) -> None:
        """Writes the manifest of a finished stage."""
        digests = {name: sha256_file(self.path / name) for name in outputs}
        write_json(self.manifest_path(stage), {"format": FORMAT, "stage": stage, "key": key, "outputs": digests})

    def discard(self, stage: str) -> None:
        """Removes a stage's manifest, so that the stage counts as unfinished while it is written again."""
        self.manifest_path(stage).unlink(missing_ok=True)

    def digests(self, stage: str) -> dict[str, str]:
        """Returns the SHA-256 of each output of a finished stage: what the next stage's key holds.

        Raises:
            ArtifactError: The stage has not finished.
        """
        outputs: dict[str, str] = self._manifest(stage)["outputs"]
        return outputs

    def _manifest(self, stage: str) -> dict[str, Any]:
        manifest = read_json(self.manifest_path(stage))
        if not isinstance(manifest, dict) or not isinstance(manifest.get("outputs"), dict):
            raise ArtifactError(f"{self.manifest_path(stage)} is not a manifest of sotune; delete it and run again")
        return manifest


def _is_temporary(path: Path) -> bool:
    """Tells whether ``atomic_path`` made a file."""
    return path.is_file() and _TEMPORARY.fullmatch(path.name) is not None


def _is_empty(folder: Path) -> bool:
    """Tells whether a folder holds nothing but what a process killed at its very start left behind."""
    return all(_is_temporary(path) for path in folder.iterdir())


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
        import pyarrow as pa
        import pyarrow.parquet as pq

        needed = {name for name, kind in self.columns.items() if not kind.endswith("?")}
        odd = (needed - columns.keys()) | (columns.keys() - self.columns.keys())
        if odd:
            raise ArtifactError(
                f"{self.name} must have the columns {list(self.columns)}; these are amiss: {sorted(odd)}"
            )
        schema = pa.schema([(name, _arrow_type(kind)) for name, kind in self.columns.items()])
        empty = [None] * len(next(iter(columns.values())))
        try:
            table = pa.table({name: columns.get(name, empty) for name in self.columns}, schema=schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise ArtifactError(f"{self.name} does not fit its columns {dict(self.columns)}: {error}") from error
        if nulls := sorted(name for name in needed if table.column(name).null_count):
            raise ArtifactError(f"{self.name} does not fit its columns {dict(self.columns)}: {nulls} hold nulls")
        with atomic_path(Path(folder) / self.name) as temporary:
            pq.write_table(table, temporary)
        return self.name

    def read(
        self, folder: str | PathLike[str], *names: str, where: Mapping[str, Iterable[Any]] | None = None
    ) -> pa.Table:
        """Reads some columns, all unless some are named, of the rows whose values are among those of ``where``.

        Raises:
            ArtifactError: The file is missing, is not Parquet, or lacks a column or its type.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path, wanted = Path(folder) / self.name, names or tuple(self.columns)
        if not path.exists():
            raise self._missing(path)
        try:
            found = pq.read_schema(path)
            faults = [name for name in {*wanted, *(where or ())} if not self._fits(found, name)]
            if faults:
                raise self._broken(path, f"lacks the columns {sorted(faults)} or their types")
            filters = [self._is_among(name, values) for name, values in (where or {}).items()]
            kept = functools.reduce(operator.and_, filters) if filters else None
            return pq.read_table(path, columns=list(wanted), filters=kept)
        except (pa.ArrowInvalid, OSError) as error:
            raise self._broken(path, f"is not readable Parquet ({error})") from error

    def columns_of(
        self, folder: str | PathLike[str], *names: str, where: Mapping[str, Iterable[Any]] | None = None
    ) -> dict[str, list[Any]]:
        """Reads columns as lists; see `read`."""
        columns: dict[str, list[Any]] = self.read(folder, *names, where=where).to_pydict()
        return columns

    def rows_of(
        self, folder: str | PathLike[str], *names: str, where: Mapping[str, Iterable[Any]] | None = None
    ) -> list[dict[str, Any]]:
        """Reads rows, each by column name; see `read`."""
        rows: list[dict[str, Any]] = self.read(folder, *names, where=where).to_pylist()
        return rows

    def _is_among(self, name: str, values: Iterable[Any]) -> pc.Expression:
        import pyarrow as pa
        import pyarrow.compute as pc

        return pc.field(name).isin(pa.array(list(values), type=_arrow_type(self.columns[name])))

    def _fits(self, schema: pa.Schema, name: str) -> bool:
        return name in schema.names and schema.field(name).type == _arrow_type(self.columns[name])


@dataclass(frozen=True)
class Json(_Artefact):
    """A JSON file of one object."""

    def write(self, folder: str | PathLike[str], value: Mapping[str, Any]) -> str:
        """Writes the object; returns its file name."""
        write_json(Path(folder) / self.name, value)
        return self.name

    def read(self, folder: str | PathLike[str]) -> dict[str, Any]:
        """Reads the object.

        Raises:
            ArtifactError: The file is missing, or holds no JSON object.
        """
        path = Path(folder) / self.name
        if not path.exists():
            raise self._missing(path)
        value = read_json(path)
        if not isinstance(value, dict):
            raise self._broken(path, f"must hold a JSON object. Got a {type(value).__name__}")
        return value

    def read_if_there(self, folder: str | PathLike[str]) -> dict[str, Any]:
        """Reads the object, an empty one where the file is missing."""
        return self.read(folder) if (Path(folder) / self.name).exists() else {}


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
        return self.name

    def read(self, folder: str | PathLike[str], *, most: int | None = None) -> list[dict[str, Any]]:
        """Reads the rows, or the first of them.

        Raises:
            ArtifactError: The file is missing, or is not JSON lines.
        """
        path = Path(folder) / self.name
        try:
            with path.open(encoding="utf-8") as file:
                return [json.loads(line) for line in itertools.islice(file, most)]
        except FileNotFoundError:
            raise self._missing(path) from None
        except (ValueError, RecursionError) as error:
            raise self._broken(path, f"is not readable JSON lines ({error})") from error


def _arrow_type(kind: str) -> pa.DataType:
    import pyarrow as pa

    kind = kind.removesuffix("?")
    return pa.list_(_arrow_type(kind[:-2])) if kind.endswith("[]") else pa.type_for_alias(kind)
