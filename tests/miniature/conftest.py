import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def script():
    """Returns the module of the script that builds the model; it is no part of the package."""
    path = Path(__file__).parents[2] / "experiments" / "miniature" / "build.py"
    spec = importlib.util.spec_from_file_location("build_miniature", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
