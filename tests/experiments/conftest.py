import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments"
SCRIPTS = sorted([*FOLDER.glob("smol/*.py"), *FOLDER.glob("gpu/*.py")])


@pytest.fixture
def script(monkeypatch):
    """Imports a script by name, as it is imported when its own folder is first on the path."""

    def load(name):
        folder = next(path.parent for path in SCRIPTS if path.stem == name)
        monkeypatch.syspath_prepend(str(folder))
        for path in folder.glob("*.py"):
            monkeypatch.delitem(sys.modules, path.stem, raising=False)
        return importlib.import_module(name)

    yield load
    for path in SCRIPTS:
        sys.modules.pop(path.stem, None)
