"""Check parsed files against pydantic models, with actionable errors."""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from quicknat.errors import InputError

SHOWN = 200  # characters of a value in messages
UNKNOWN = ("extra_forbidden", "invalid_key")  # pydantic's names of errors


class Checked(BaseModel):
    """Content of a file; NaN, and 256.0 for an integer, are errors."""

    model_config = ConfigDict(
        frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


Model = TypeVar("Model", bound=Checked)


def checked(model: type[Model], values: Any, where: str | Path) -> Model:
    """Return parsed JSON or YAML as a model, with defaults filled in.

    Raises:
        InputError: a key is unknown or missing, or a value is not allowed; the outermost error is
            reported.
    """
    try:
        return model.model_validate(values)
    except ValidationError as found:
        errors = found.errors(include_url=False)
    # unknown before missing: a misspelt key gives both
    error = min(errors, key=lambda e: (len(e["loc"]), e["type"] not in UNKNOWN))
    path = error["loc"]
    section: type[BaseModel] = model
    for part in path[:-1]:
        field = section.model_fields.get(str(part))
        section = (field and section_model(field)) or section
    if error["type"] in UNKNOWN:
        raise InputError(where, *unknown_key(path, list(section.model_fields)))
    if error["type"] == "missing":
        raise InputError(where, f"'{dotted(path)}' is missing", "add it")
    # "Input should be greater than …"
    rule = error["msg"].split(" or instance of")[0].partition(" should ")[2]
    what = f"'{dotted(path)}' is" if path else "is"
    setting = section.model_fields.get(str(path[-1])) if path else None
    described = (setting.description if setting else None) or ""
    meaning = " ".join(described.split()).partition(". ")[0].rstrip(".")
    meaning = f" ({meaning})" if meaning else ""
    raise InputError(where, f"{what} {shown(error['input'])}", f"must {rule}{meaning}")


def section_model(field: FieldInfo) -> type[Checked] | None:
    """Return the model of a section; None for a single value."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Checked)), None)


def dotted(parts: Iterable[Any]) -> str:
    """Return keys as a dotted path, printable and at most one line long."""
    text = ".".join(str(part) for part in parts)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def unknown_key(path: Sequence[Any], allowed: Sequence[str]) -> tuple[str, str]:
    """Return problem and fix for an unknown key, in one line each."""
    near = difflib.get_close_matches(str(path[-1]), allowed, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"unknown key '{dotted(path)}'", f"{hint}allowed here: {', '.join(allowed)}"


def shown(value: Any) -> str:
    """Return a short text of a value; with YAML aliases, nested ones may be huge."""
    if isinstance(value, (list, dict)):
        return reprlib.repr(value)
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
