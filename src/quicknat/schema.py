"""Check tables and model folders against JSON Schema, with actionable errors."""

from __future__ import annotations

import difflib
import json
import math
import re
import reprlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match, relevance
from jsonschema.validators import extend

from quicknat.errors import InputError
from quicknat.package_data import schema_path

SHOWN = 200  # characters of a value in messages
# what `fits` knows of the schemas of tables: keywords of a cell; of a row, beside `properties`
CELL_RULES = {"type", "pattern", "enum", "description"}
ROW_RULES = {"$schema", "title", "description", "type", "additionalProperties", "required"}
MAX_VALUES = 100_000  # of a file: with YAML aliases, a few lines can expand beyond memory


def _whole(_: Any, value: Any) -> bool:
    """Return whether a value is an integer; 256.0 is not, since commands reject it."""
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(_: Any, value: Any) -> bool:
    """Return whether a value is a finite number; NaN would pass all bounds."""
    return (isinstance(value, float) and math.isfinite(value)) or _whole(_, value)


_Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _whole, "number": _finite}
    ),
)


@cache
def load_schema(name: str) -> dict:
    """Return the JSON Schema of ``bundle``, ``sheet`` or ``sources``."""
    return yaml.safe_load(schema_path(name).read_bytes())


def dotted(parts: Any) -> str:
    """Return keys as a dotted path, printable and at most one line long."""
    text = ".".join(str(part) for part in parts)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def unknown_key(path: Sequence, allowed: Sequence[str]) -> tuple[str, str]:
    """Return problem and fix for an unknown key, in one line each."""
    near = difflib.get_close_matches(str(path[-1]), allowed, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"unknown key '{dotted(path)}'", f"{hint}allowed here: {', '.join(allowed)}"


def _explain(error: Any) -> tuple[str, str]:  # a ValidationError, whose type has optional parts
    """Return problem and fix for a validation error, in one line each."""
    key = dotted(error.absolute_path)
    if error.validator == "additionalProperties":
        allowed = list(error.schema["properties"])
        unknown = next(name for name in error.instance if name not in allowed)
        return unknown_key([*error.absolute_path, unknown], allowed)
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return f"'{dotted([*error.absolute_path, missing])}' is missing", "add it"
    value = shown(error.instance)
    fixes = {
        "enum": lambda rule: "allowed: " + ", ".join(str(v) or "(empty)" for v in rule),
        "type": lambda rule: f"must be {rule if isinstance(rule, str) else ' or '.join(rule)}",
        "minimum": lambda rule: f"must be at least {rule}",
        "maximum": lambda rule: f"must be at most {rule}",
        "exclusiveMinimum": lambda rule: f"must be more than {rule}",
        "multipleOf": lambda rule: f"must be a multiple of {rule}",
        "pattern": lambda _: error.schema.get("description", "has the wrong format"),
    }
    fix = fixes.get(error.validator, lambda _: error.message[:SHOWN])(error.validator_value)
    return f"'{key}' is {value}", fix


def shown(value: Any) -> str:
    """Return a short text of a value; with YAML aliases, nested ones may be huge."""
    if isinstance(value, (list, dict)):
        return reprlib.repr(value)
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _has_more_values(value: Any, limit: int) -> bool:
    """Return whether nested lists and mappings contain more than `limit` values."""
    waiting, seen = [value], 0
    while waiting and seen <= limit:
        seen += 1
        item = waiting.pop()
        if isinstance(item, (list, dict)):
            waiting.extend(item.values() if isinstance(item, dict) else item)
    return seen > limit


def check(instance: Any, schema: dict, where: str | Path) -> None:
    """Raise an :class:`InputError` that names the first wrong key and its allowed values."""
    for key, value in instance.items() if isinstance(instance, dict) else ():
        if _has_more_values(value, MAX_VALUES):
            problem = f"'{key}' holds more than {MAX_VALUES} values"
            raise InputError(where, problem, "give fewer values")
    error = best_match(_Validator(schema).iter_errors(instance))
    if error is not None:
        problem, fix = _explain(error)
        raise InputError(where, problem, fix)


def fits(row: dict[str, str], schema: dict) -> bool:
    """Return whether a row of text surely matches a table's schema; if not, ask `all_problems`.

    This takes microseconds, and that half a millisecond.
    """
    rules = [(value, schema["properties"].get(key, {"unknown": key})) for key, value in row.items()]
    return (
        schema.keys() <= {*ROW_RULES, "properties"}
        and row.keys() >= set(schema["required"])
        and all(rule.keys() <= CELL_RULES for _, rule in rules)
        and all(rule.get("type", "string") == "string" for _, rule in rules)
        and all(value in rule.get("enum", (value,)) for value, rule in rules)
        and all(re.search(rule.get("pattern", ""), value) for value, rule in rules)
    )


def all_problems(instance: Any, schema: dict, where: str | Path) -> list[InputError]:
    """Return an :class:`InputError` per problem; the first is the one that `check` raises."""
    errors = _Validator(schema).iter_errors(instance)
    ordered = sorted(errors, key=relevance, reverse=True)
    return [InputError(where, *_explain(error)) for error in ordered]
