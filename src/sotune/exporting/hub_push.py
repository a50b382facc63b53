"""Folders to repositories on the Hugging Face Hub, which are told before they are sent."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sotune.artifacts import read_json, write_json
from sotune.errors import ConfigError, SotuneError, first_line

_NEVER = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Ends of names of files that may hold pickles, which run code where they are loaded."""


@dataclass(frozen=True)
class Upload:
    """One folder on its way to a repository.

    Attributes:
        kind: What the repository holds.
        repository: ``OWNER/NAME``.
        folder: What is sent.
        private: Whether a new repository is private.
        files: Names of the files, each with its size in bytes.
    """

    kind: Literal["dataset", "model"]
    repository: str
    folder: str
    private: bool
    files: dict[str, int]


def uploads(repository: str, rows: Path, adapter: Path | None, *, private: bool) -> list[Upload]:
    """Returns what would be sent where: the rows to a data set, the adapter to a model of the same name.

    Raises:
        ConfigError: The name is not OWNER/NAME, or the adapter's folder holds a pickle.
    """
    owner, mark, name = repository.partition("/")
    if not (owner and mark and name) or "/" in name:
        raise ConfigError(f"push_to_hub must be a repository like OWNER/NAME. Got {repository!r}")
    folders: list[tuple[Literal["dataset", "model"], Path]] = [("dataset", rows)]
    folders += [("model", adapter)] if adapter else []
    return [Upload(kind, repository, str(folder), private, _files(folder)) for kind, folder in folders]


def _files(folder: Path) -> dict[str, int]:
    found = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    if pickles := [name for name in found if name.endswith(_NEVER)]:
        raise ConfigError(f"{folder} holds {', '.join(pickles)}, which may be pickles; nothing is sent")
    return found


def push(planned: Sequence[Upload], api: Any = None) -> list[str]:
    """Sends folders to the Hub; returns the addresses of the commits.

    Args:
        planned: What to send; see `uploads`.
        api: An ``HfApi``; by default one of the user's own login.

    Raises:
        SotuneError: The Hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = api if api is not None else HfApi()
    sent = []
    for one in planned:
        where = {"repo_id": one.repository, "repo_type": one.kind}
        try:
            api.create_repo(**where, private=one.private, exist_ok=True)
            said = "Kept rows, by sotune" if one.kind == "dataset" else "LoRA adapter, by sotune"
            with _staged(one) as folder:
                commit = api.upload_folder(**where, folder_path=folder, commit_message=said)
        except (HfHubHTTPError, OSError, ValueError) as error:
            done = f"; sent before: {', '.join(sent)}" if sent else ""
            raise SotuneError(
                f"the Hub did not take {one.kind} {one.repository} ({first_line(error)}){done}; log in with "
                f"`hf auth login`, check the name, and run the command again"
            ) from error
        sent.append(str(commit))
    return sent


@contextlib.contextmanager
def _staged(upload: Upload) -> Iterator[str]:
    """Yields a folder of what is sent: where a local base model lies is nobody else's matter."""
    with tempfile.TemporaryDirectory() as folder:
        for name in upload.files:
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(upload.folder, name), target)
        config = Path(folder, "adapter_config.json")
        if config.exists() and Path(str(read_json(config).get("base_model_name_or_path"))).is_absolute():
            write_json(config, {**read_json(config), "base_model_name_or_path": None})
        yield folder
