"""Settings of a run that are valid one by one and contradict each other."""

from __future__ import annotations

from quicknat.errors import InputError
from quicknat.reruns import stable_path
from quicknat.schema import check, load_schema


def check_consistency(config: dict) -> None:
    """Raise an :class:`InputError` where settings, each valid by itself, contradict each other.

    Args:
        config: the whole configuration with its defaults filled in.
    """
    window, cube = config["slices"]["size"], config["conform"]["size"]
    if window > cube:
        fix = f"must be at most conform.size ({cube})"
        raise InputError("configuration", f"'slices.size' is {window}", fix)
    initial = config["training"].get("initial_model")
    if initial and stable_path(initial) == "results/model":
        fix = "copy it to another folder first: this workflow writes there"
        raise InputError("configuration", f"'training.initial_model' is {initial}", fix)
    total = sum(config["aggregation"][view] for view in ("axial", "coronal", "sagittal"))
    if abs(total - 1) > 1e-6:
        raise InputError("configuration", f"'aggregation' adds up to {total:g}", "must be 1")


def complete(config: dict) -> dict:
    """Return a configuration with its defaults, checked against the schema."""
    schema = load_schema("config")
    check(config, schema, "configuration")

    def filled(values: dict, rule: dict) -> dict:
        rule = schema["$defs"][rule["$ref"].rsplit("/", 1)[1]] if "$ref" in rule else rule
        values = dict(values)
        for key, part in rule.get("properties", {}).items():
            if "default" in part and key not in values:
                values[key] = part["default"]
            if isinstance(values.get(key), dict):
                values[key] = filled(values[key], part)
        return values

    return filled(config, schema)
