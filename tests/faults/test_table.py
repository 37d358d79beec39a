"""Every case has its proof, and the table in the docs says which."""

from helpers import ROOT
from reliability import COMMAND, TABLE, marked_tests, read_cases, told_tests


def test_every_case_has_a_test_or_a_reason_why_not():
    cases, tests = read_cases(), marked_tests()
    assert list(cases) == sorted(set(cases))
    assert set(tests) <= set(cases)
    for number, case in cases.items():
        assert bool(case["untestable"]) != bool(tests.get(number)), number


def test_table_in_the_docs_names_the_cases_and_tests_that_there_are():
    text = TABLE.read_text()
    assert told_tests(text) == marked_tests(), f"write it again: {COMMAND}"
    for case in read_cases().values():
        assert f"| {case['case']} | {case['expected']} |" in text, f"write it again: {COMMAND}"


def test_table_in_the_docs_has_no_failure_and_the_readme_leads_to_it():
    assert "failed |" not in TABLE.read_text() and " failed" not in TABLE.read_text()
    assert "(docs/reliability.md)" in (ROOT / "README.md").read_text()
