import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_NUMBERS = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory):
    """Keeps what fixtures of a whole session write away from the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOTUNE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(autouse=True)
def _cache_of_its_own(monkeypatch, tmp_path_factory):
    """Gives each test a shared cache of its own, which is empty."""
    monkeypatch.setenv("SOTUNE_CACHE", str(tmp_path_factory.getbasetemp() / f"cache-{next(_NUMBERS)}"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Callable[[str], Path]:
    """Returns the folder of a small random model of an architecture, built once."""
    from tiny_models import build_tiny_model

    built: dict[str, Path] = {}

    def get(architecture: str) -> Path:
        if architecture not in built:
            built[architecture] = build_tiny_model(architecture, tmp_path_factory.mktemp(architecture))
        return built[architecture]

    return get


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Returns the folder of public data sets; skips where it is missing."""
    folder = Path(os.environ.get("SOTUNE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "mix_alpaca_lat05.jsonl.gz").exists():
        pytest.skip(f"the public data sets are not at {folder}; name their folder in SOTUNE_DATA")
    return folder


@pytest.fixture
def cli():
    """Runs the command line in this process; returns the result with its exit status and output."""
    from typer.testing import CliRunner

    from sotune.cli import app

    runner = CliRunner()

    def run(*args):
        return runner.invoke(app, [str(arg) for arg in args])

    return run
