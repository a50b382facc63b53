"""The page around a report: the template engine, with every safeguard in one place.

Escaping is on for all templates, an undefined name is an error, and each text passes `visible`, so that no
value from data reaches a page as markup or as a character that reorders what stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from sotune.artifacts import library_versions, write_text
from sotune.reporting import formatting
from sotune.wording import counted

_FILTERS = (
    "aligned", "aligned_percent", "count", "duration", "identifier", "number", "percent", "shorten", "size",
)  # fmt: skip


def write_page(path: Path, template: str, view: Mapping[str, Any]) -> Path:
    """Renders a template of this package to a self-contained HTML file, atomically.

    Args:
        path: Where to.
        template: File name of the template.
        view: What the template shows.

    Raises:
        LookupError: The view lacks something.
    """
    version = library_versions("sotune")["sotune"]
    try:
        text = _environment().get_template(template).render({"sotune_version": version, **view})
    except UndefinedError as error:
        raise LookupError(f"{path.name} shows what is not there: {error}") from error
    write_text(path, text)
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sotune.reporting", package_path="."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(formatting, name) for name in _FILTERS} | {"counted": counted}
    return environment


def _finalize(value: Any) -> Any:
    if value is None:
        return formatting.MISSING
    if isinstance(value, str) and not isinstance(value, Markup):
        return formatting.visible(value)
    return value


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings as dotted key to value, in key order; lists become texts."""
    flat: dict[str, Any] = {}
    for key in sorted(settings):
        value = settings[key]
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            flat[f"{prefix}{key}"] = ", ".join(formatting.number(item) for item in value) or "none"
        else:
            flat[f"{prefix}{key}"] = value
    return flat
