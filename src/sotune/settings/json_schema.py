"""The settings of a run as a JSON schema, by which editors complete and check a YAML file."""

from __future__ import annotations

from typing import Any, Literal, get_args

from sotune.settings.run import ALL_SETTINGS, RunConfig
from sotune.settings.schema import Bytes

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXT = {"type": "string"}


def run_schema() -> dict[str, Any]:
    """Returns the schema of a file for `sotune run` and ``--config``: one property for each setting.

    Nothing is required that another setting or a flag can give in its place; what a whole run needs is said when it
    starts.
    """
    schema = RunConfig.model_json_schema()
    properties: dict[str, Any] = schema["properties"]
    for name, field in RunConfig.model_fields.items():
        own = properties[name]
        own.pop("title", None)
        if field.annotation == tuple[str, ...]:  # one text is a list of one
            own["anyOf"] = [_TEXT, {"type": "array", "items": own.pop("items"), **_taken(own, "minItems")}]
            own.pop("type")
        elif Bytes in (field.annotation, *get_args(field.annotation)) or "bytes" in name or name == "max_memory":
            own["anyOf"] = [*(own.get("anyOf") or [{"type": own.pop("type")}]), _TEXT]  # like 4GB
        elif field.annotation == int | Literal["auto"]:
            own["anyOf"] = [{"type": "integer"}, {"const": "auto"}]
    schema.pop("required", None)
    return {
        "$schema": DIALECT,
        "title": "Settings of a sotune run",
        "description": "; ".join(str(group.__doc__).partition("\n")[0].rstrip(".") for group in ALL_SETTINGS) + ".",
        **{key: value for key, value in schema.items() if key not in ("title", "description")},
    }


def _taken(own: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: own.pop(name) for name in names if name in own}
