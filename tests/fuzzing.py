"""Random and hostile input for the commands, and what must hold whatever it is.

Profile ``fast`` is small and the same in every run. ``HYPOTHESIS_PROFILE=long`` (``make fuzz``)
tries thousands of new examples; `FUZZ_EXAMPLES` says how many for each test.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import in_process

COMMON = {"database": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
settings.register_profile("fast", derandomize=True, max_examples=12, deadline=None, **COMMON)
settings.register_profile(
    "long",
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", 2000)),
    deadline=timedelta(seconds=30),  # an example that takes longer is taken for a hang
    **COMMON,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

quicknat = functools.partial(in_process.quicknat, "-q")  # warnings and errors alone


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, links as what they say."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink() or path.is_file():
            content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(folder))] = content
    return found


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder with ``in`` and ``out`` for one example; nothing may be written beside the two."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        root = Path(name)
        (root / "in").mkdir()
        (root / "out").mkdir()
        (root / "bystander.txt").write_text("mine")
        yield root
        beside = {k: v for k, v in contents(root).items() if not k.startswith(("in/", "out/"))}
        assert beside == {"bystander.txt": b"mine"}, "written outside the target"


NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2, 3, 7, 255, 32767, -32768, 2**31 - 1, -(2**31), 2**63 - 1]),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e-38, -1e-38, 3e38, -3e38, 0.5]),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
)
# text that has broken programs before
NASTY = st.one_of(
    st.sampled_from(
        [
            "", " ", "../../evil", "/etc/passwd", "..", ".", "~", "$(touch evil)", "`touch evil`",
            "; touch evil", "'; touch evil; '", '"', "<script>alert(1)</script>", "=1+1",
            '=HYPERLINK("http://x")', "@SUM(A1)", "-x", "--help", "a\x00b", "\ufeffa", "a\x1b[2Jb",
            "\u202eabc", "a" * 5000, "nan", "NaN", "None", "1e999", "{x}", "{{7*7}}", "%s%n", "*",
            "**/*", "[", "[!", "a\\b", "C:\\x", "CON", "sub-1", "\u0661", "é", "\ud800",
        ]
    ),
    st.text(max_size=30),
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, content: bytes, head: int = 0) -> bytes:
    """The bytes with some cut off, added, or changed (only among the first `head`, if given)."""
    data = bytearray(content)
    places = st.integers(0, max(0, min(head or len(data), len(data)) - 1))
    values = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
    for where, value in draw(st.lists(st.tuples(places, values), max_size=4)):
        data[where : where + 1] = bytes([value])
    how = draw(st.sampled_from(["whole", "whole", "cut", "insert", "remove"]))
    where = draw(st.integers(0, len(data)))
    end = {"cut": len(data), "remove": where + draw(st.integers(1, 16))}.get(how, where)
    data[where:end] = draw(st.binary(max_size=64)) if how == "insert" else b""
    return bytes(data)


@st.composite
def changed(draw: st.DrawFn, settings: dict, values: st.SearchStrategy) -> dict:
    """A copy of nested dictionaries with some values replaced, or keys added or taken away."""
    found = copy.deepcopy(settings)
    for _ in range(draw(st.integers(1, 3))):
        part = found
        key = draw(st.sampled_from(list(part)) if draw(st.integers(0, 4)) else NASTY)
        while part.get(key) and isinstance(part[key], dict) and draw(st.integers(0, 3)):
            part = part[key]
            key = draw(st.sampled_from(list(part)) if draw(st.integers(0, 4)) else NASTY)
        if draw(st.integers(0, 3)):
            part[key] = draw(values)
        else:
            part.pop(key, None)
    return found
