"""Every case has its proof, and the table in the docs says which."""

from reliability import TABLE, marked_tests, read_cases, table


def test_every_case_has_a_test():
    assert list(read_cases()) == sorted(marked_tests())


def test_table_in_the_docs_names_the_cases_and_tests_that_there_are():
    assert TABLE.read_text() == table(), "write it again: python tests/reliability.py"
