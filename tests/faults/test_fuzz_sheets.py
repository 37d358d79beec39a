"""Sheets, configurations and label tables of any content are read right, or refused in one line."""

from __future__ import annotations

import csv
import re

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from fuzzing import NASTY, NUMBERS, changed, contents, damaged, quicknat, workplace
from helpers import LABELS, ROOT
from quicknat.cohort.naming import SCAN_NAME
from quicknat.cohort.sheet import LOCAL, SCANS, read_sheet, read_sources
from quicknat.config import Config, check_consistency
from quicknat.errors import InputError
from quicknat.images.labels import COLUMNS as LABEL_COLUMNS
from quicknat.images.labels import Protocol, freesurfer_structures

pytestmark = pytest.mark.timeout(3600, method="thread")  # also ends what hangs outside Python

COLUMNS = SCANS.json_schema()["properties"]
VALID = "subject\timage\tsplit\tlabels\tlabel_convention\n"
VALID += "a\ta.nii\tsegment\t\t\nb\tb.nii\ttrain\tb.img\tseed4\n"


@st.composite
def sheets(draw: st.DrawFn) -> bytes:
    """A table of a sheet's columns, some twice or of other names, in one encoding or another."""
    known = st.sampled_from(list(COLUMNS))
    header = draw(st.permutations(["subject", "image", "split"]))
    header = [*header, *draw(st.lists(st.one_of(known, known, NASTY), max_size=4))]
    usual = {
        "subject": st.sampled_from(["a", "b", "c1"]),
        "image": st.sampled_from(["a.nii", "b.nii", "*.nii", "/dev/null", "a" * 300]),
        "split": st.sampled_from(COLUMNS["split"]["enum"]),
        "labels": st.sampled_from(["", "a.nii"]),
        "label_convention": st.sampled_from(["", "freesurfer", "quicknat28"]),
        "entities": st.sampled_from(["", "run-1", "run-1_run-", "x-1"]),
        "orientation": st.sampled_from(["", "LAS", "LLL"]),
        "source": st.sampled_from(["", LOCAL, "img2fmri", "nowhere"]),
    }
    rows = [header]
    for _ in range(draw(st.integers(0, 4))):
        row = [
            draw(NASTY) if draw(st.integers(0, 9)) == 0 else draw(usual.get(name, st.just("")))
            for name in header
        ]
        length = len(row) + draw(st.sampled_from([0, 0, 0, 0, -1, 1]))
        rows.append([*row, "extra"][:length])
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join("\t".join(row) for row in rows)
    encodings = ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]
    content = text.encode(draw(st.sampled_from(encodings)), "replace")
    return draw(st.one_of(st.just(content), damaged(content)))


@given(sheets())
@example(b"")
@example(b"\x00\x01\xff\xfe" * 20)
@example(VALID.encode("utf-16"))
@example(VALID.encode("utf-8-sig"))
# one cell too many in each row made pandas take the subject for a row's name, and shifted all
@example(b"subject\timage\tsplit\nx\ta\ta.nii\tsegment\n")
@example(b"subject\timage\tsplit\na\t" + b"a" * 5000 + b"\tsegment\n")  # no file name is so long
@example(b"subject\timage\tsplit\na\ta\x00b\tsegment\n")
@example(b"subject\timage\tsplit\timage\na\ta\tsegment\tb\n")
@example(b"subject\timage\tsplit\n../../evil\ta\tsegment\n")
@example(b"subject\timage\tsplit\n=1+1\ta\tsegment\n")
@example(b"subject\timage\tsplit\tuse\na\ta\tsegment\ttrain\n")
@example(b"subject\timage\tentities\tsplit\na\ta\trun-1/..\tsegment\n")
def test_any_sheet_is_checked_or_refused_in_one_line(content):
    with workplace() as root:
        sheet = root / "in/cohort.tsv"
        sheet.write_bytes(content)
        done = quicknat(
            "check", sheet, "--output", root / "out/check.tsv", "--raw", root / "out/raw",
            "--sources", ROOT / "workflow/sources.tsv", "--threads", 1,
        )  # fmt: skip
        if not done.out:
            done.refused(sheet)
            assert contents(root / "out") == {}
            return
        assert done.status in (0, 1) and done.err == [], str(done)
        with (root / "out/check.tsv").open(newline="") as stream:
            header, *verdicts = csv.reader(stream, delimiter="\t")
        assert header[3] == "verdict"
        assert (done.status == 1) == any(verdict[3] == "bad" for verdict in verdicts)
        try:
            scans = read_sheet(sheet)
        except InputError:
            return
        for scan in scans:  # these names become paths, shell words and HTML
            assert re.fullmatch(SCAN_NAME, scan.id), scan
            assert re.fullmatch(r"[A-Za-z0-9._-]*", scan.source + scan.labels_source)
            assert re.fullmatch(r"[A-Za-z0-9_-]*", scan.label_convention)


def test_rows_with_a_cell_too_many_are_refused_rather_than_shifted(tmp_path):
    (tmp_path / "s.tsv").write_text("subject\timage\tsplit\nx\ta\ta.nii\tsegment\n")
    with pytest.raises(InputError, match="more cells than its header"):
        read_sheet(tmp_path / "s.tsv")


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "-x"])
def test_name_of_a_source_cannot_lead_out_of_the_folder_of_archives(tmp_path, name):
    (tmp_path / "sources.tsv").write_text(f"source\tkind\turl\n{name}\tlocal\t/data\n")
    with pytest.raises(InputError, match="'source' is"):
        read_sources(tmp_path / "sources.tsv")


DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, NASTY, st.dates()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(NASTY, st.integers()), inner)
    ),
    max_leaves=6,
)


def laughs(depth: int = 60) -> list:
    """A "billion laughs": 2**60 texts if written out, a few lists as YAML's aliases make them."""
    return [laughs(depth - 1)] * 2 if depth else ["ha", "ha"]


CIRCLE: list = []
CIRCLE.append(CIRCLE)


@given(changed(DEFAULT, VALUES))
def test_any_configuration_is_accepted_or_refused_in_one_line(config):
    """As the workflow checks one."""
    try:
        found = Config.read(config, notify=None)
        check_consistency(found)
    except InputError as error:
        text = str(error)
        assert text.startswith("configuration: ") and "\n" not in text and len(text) < 2000
    else:
        for section in found.model_dump().values():
            values = section.values() if isinstance(section, dict) else [section]
            assert all(abs(v) < float("inf") for v in values if isinstance(v, (int, float)))
        assert isinstance(found.conform.size, int) and found.conform.size <= 1024


@pytest.mark.parametrize("value", [laughs(), CIRCLE, "x" * 10**6], ids=["laughs", "circle", "x"])
@pytest.mark.parametrize("where", ["sheet", "conform", "auto_labels", "unknown"])
def test_endless_value_is_refused_in_a_short_line(value, where):
    if where == "sheet" and isinstance(value, str):
        value = [value]  # else it is a path like another
    with pytest.raises(InputError) as error:
        Config.read({**DEFAULT, where: value})
    assert where in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize("key", ["a" * 5000, "a\nerror: b", "\x1b[2J"])
def test_unknown_key_is_named_in_one_short_printable_line(key):
    with pytest.raises(InputError) as error:
        Config.read({**DEFAULT, key: 1})
    text = str(error.value)
    assert "unknown key" in text and text.isprintable() and len(text) < 1000


TABLE = (LABELS / "seed4.tsv").read_bytes()


def label_table(**changed: str) -> bytes:
    """seed4's table with some cells of its second row changed."""
    lines = TABLE.decode().splitlines()
    header, cells = lines[0].split("\t"), lines[2].split("\t")
    for column, value in changed.items():
        cells[header.index(column)] = value
    lines[2] = "\t".join(cells)
    return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")


CELLS = st.dictionaries(
    st.sampled_from(LABEL_COLUMNS),
    st.one_of(NASTY, NUMBERS.map(str), st.sampled_from(["1-5:0", "9-1", "0-999999", "١"])),
)


@given(st.one_of(damaged(TABLE), CELLS.map(lambda cells: label_table(**cells))))
# millions of numbers, compared each with each, were a hang; and one above 64 bits a traceback
@example(label_table(freesurfer="0-99999999999"))
@example(label_table(freesurfer="500-400000"))
@example(label_table(sagittal="9" * 30))
@example(label_table(partner="-" + "9" * 30))
def test_any_label_table_is_read_or_refused_in_one_line(content):
    with workplace() as root:
        path = root / "in/labels.tsv"
        path.write_bytes(content.replace(b"\r\n", b"\n"))
        try:
            protocol = Protocol.read(path)
        except InputError as error:
            assert str(path) in str(error) and len(str(error)) < 6000
            return
        assert 2 <= len(protocol.names) <= 256
        assert len(protocol.colors) == len(protocol.names)
        assert len(protocol.class_names("sagittal")) == protocol.n_classes("sagittal")
        freesurfer_structures(protocol)


def test_label_table_with_more_classes_than_a_byte_holds_is_refused(tmp_path):
    header, background, *_ = TABLE.decode().splitlines()
    cells = dict(zip(header.split("\t"), background.split("\t"), strict=True))
    lines = [header, background]
    for index in range(1, 300):
        own = {"index": index, "sagittal": index, "name": f"n{index}", "abbreviation": f"a{index}"}
        own |= dict.fromkeys(["freesurfer", "neuromorphometrics", "partner"], "")
        lines.append("\t".join(map(str, (cells | own).values())))
    (tmp_path / "many.tsv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="has 300 classes; use at most 256"):
        Protocol.read(tmp_path / "many.tsv")


@given(st.binary(max_size=40), st.sampled_from(["gather", "volumes", "failures"]))
def test_any_table_of_results_is_read_or_refused_in_one_line(content, command):
    with workplace() as root:
        table, listing = root / "in/table.tsv", root / "in/list.txt"
        table.write_bytes(content)
        listing.write_text(f"{table}\n")
        arguments = [table] if command == "failures" else [listing, "--output", root / "out/a.tsv"]
        done = quicknat(command, *arguments)
        if done.status:
            done.refused(table)
            assert contents(root / "out") == {}
