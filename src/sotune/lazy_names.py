"""Names that a package offers and whose modules are imported when one of them is first used.

For packages whose modules load torch or the libraries of models: those who only name a class, or do something else,
need not wait for them.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def offers(package: str, homes: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """Returns the ``__getattr__`` of a package: module of the package to the names that are found there."""
    home_of = {name: home for home, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home_of[name]}"), name)

    return find
