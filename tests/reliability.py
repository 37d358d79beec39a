"""Which test proves which case of tests/faults/cases.tsv, and the table of it in the docs."""

from __future__ import annotations

import ast
import csv
import platform
import re
from collections import defaultdict
from pathlib import Path

import pytest

import quicknat

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs/reliability.md"
COMMAND = "python -m pytest -m case --reliability=docs/reliability.md"

INTRODUCTION = """# What happens when something is wrong

{count} problems of scans and machines, collected from the issue trackers of neuroimaging tools,
what you can expect in each, and the tests that prove it.

Whatever is refused ends with exit status 1 and one line that names the file, what is wrong with
it, and what to do. No half-written file is left under a final name. `quicknat check` finds what
is wrong with a cohort before anything is computed.

On a CPU, the same scans, settings and seed give bitwise identical networks and label maps: again,
on one core or several, and through any number of kills, as long as a training has the same number
of threads (a third of `--cores`). Other numbers of threads sum in another order: one network then
gives the same labels but for rounding (case 60); two trainings agree in their loss within 0.5 %
after an epoch, and drift apart from there. On a GPU the order of sums is free.

The tests write this table: `{command}`
(quicknat {version}, Python {python}). Tests are named by their file below `tests`.
"""


def read_cases() -> dict[int, dict[str, str]]:
    """The rows of cases.tsv by number."""
    with (TESTS / "faults/cases.tsv").open(newline="") as stream:
        return {int(row["number"]): row for row in csv.DictReader(stream, delimiter="\t")}


def _numbers(decorator: ast.expr) -> list[int]:
    """The cases that a decorator names, none if it is another one."""
    is_case = isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.case"
    return [ast.literal_eval(argument) for argument in decorator.args] if is_case else []


def marked_tests() -> dict[int, list[str]]:
    """Tests by the case that they are marked with, as ``file::name`` below the tests' folder.

    The sources are read and not run: collecting all tests would take longer than most of them.
    """
    found = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                for number in (n for part in node.decorator_list for n in _numbers(part)):
                    found[number].append(f"{path.relative_to(TESTS)}::{node.name}")
    return dict(found)


def _result(tests: list[str], results: dict[str, str]) -> str:
    words = [results.get(test, "not run") for test in tests]
    if len(set(words)) == 1:
        return words[0]
    return ", ".join(f"{words.count(word)} {word}" for word in sorted(set(words)))


def write_table(path: Path, results: dict[str, str]) -> None:
    """Write the table of all cases.

    Args:
        path: Markdown file.
        results: what became of each test, by its name as :func:`marked_tests` gives it.
    """
    cases, tests = read_cases(), marked_tests()
    lines = INTRODUCTION.format(
        count=len(cases), command=COMMAND, version=quicknat.__version__,
        python=platform.python_version(),
    ).splitlines()  # fmt: skip
    group = ""
    for number, case in cases.items():
        if case["group"] != group:
            group = case["group"]
            lines += ["", f"## {group}", ""]
            lines += ["| | case | what you can expect | tests | result |", "|-|-|-|-|-|"]
        mine = tests.get(number, [])
        names = "<br>".join(f"`{test}`" for test in mine)
        result = _result(mine, results) if mine else f"not testable here: {case['untestable']}"
        lines.append(f"| {number} | {case['case']} | {case['expected']} | {names} | {result} |")
    path.write_text("\n".join(lines) + "\n")


def told_tests(text: str) -> dict[int, list[str]]:
    """The tests that a written table names, by case."""
    rows = (line.split(" | ") for line in text.splitlines() if re.match(r"\| \d+ \|", line))
    return {int(row[0].strip("| ")): re.findall(r"`([^`]+::[^`]+)`", row[3]) for row in rows}


class Recorder:
    """Pytest plugin: writes the table when the tests have run."""

    def __init__(self, path: Path) -> None:
        self.path, self.words = path, defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            name = report.nodeid.split("[")[0].removeprefix(f"{TESTS.name}/")
            self.words[name].add(report.outcome)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return  # interrupted, or the tests themselves could not be read
        ranked = ("failed", "skipped", "passed")  # one failed variant fails the test
        results = {name: min(words, key=ranked.index) for name, words in self.words.items()}
        write_table(self.path, results)
