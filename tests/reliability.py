"""Write docs/reliability.md: which tests prove which case of tests/faults/cases.tsv.

``python tests/reliability.py``
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs/reliability.md"

INTRODUCTION = """# What happens when something is wrong

{count} problems with scans and machines, collected from issue trackers of neuroimaging tools, what
you can expect in each case, and the tests that prove it.

Whatever is refused ends with exit status 1 and one line that names the file, what is wrong with
it, and what to do. No half-written file is left under a final name. `quicknat check` finds what
is wrong with a cohort before anything is computed.

On a CPU, the same scans, settings and seed give bitwise identical networks and label maps: in every
run, on one core or several, and after any number of kills, as long as training has the same number
of threads (a third of `--cores`). Other numbers of threads sum in another order: one network then
gives the same labels except for rounding (case 60); the losses of two training runs agree within
0.5 % after an epoch, and drift apart from there. On a GPU, the order of sums is not fixed.

`python tests/reliability.py` writes this table from the marks of the tests, which are named by
their file in `tests`; `make test-all` runs them all.
"""


def read_cases() -> dict[int, dict[str, str]]:
    """The rows of cases.tsv by number."""
    with (TESTS / "faults/cases.tsv").open(newline="") as stream:
        return {int(row["number"]): row for row in csv.DictReader(stream, delimiter="\t")}


def marked_tests() -> dict[int, list[str]]:
    """Tests by the case that they are marked with, as ``file::name`` below the tests' folder.

    The sources are read and not run: collecting all tests would take longer than most of them.
    """
    found = defaultdict(list)
    marked = re.compile(r"^@pytest\.mark\.case\((.*?)\).*?^def (\w+)", re.DOTALL | re.MULTILINE)
    for path in sorted(TESTS.rglob("test_*.py")):
        for numbers, name in marked.findall(path.read_text()):
            for number in re.findall(r"\d+", numbers):
                found[int(number)].append(f"{path.relative_to(TESTS)}::{name}")
    return dict(found)


def table() -> str:
    """Return the page with the table of all cases."""
    cases, tests = read_cases(), marked_tests()
    lines, group = INTRODUCTION.format(count=len(cases)).splitlines(), ""
    for number, case in cases.items():
        if case["group"] != group:
            group = case["group"]
            lines += ["", f"## {group}", ""]
            lines += ["| | case | what you can expect | tests |", "|-|-|-|-|"]
        names = "<br>".join(f"`{test}`" for test in tests.get(number, []))
        lines.append(f"| {number} | {case['case']} | {case['expected']} | {names} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table())
