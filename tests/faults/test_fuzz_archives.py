"""Archives of any content give files inside their folder, or are refused in one line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import warnings
import zipfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzzing import NASTY, contents, damaged, quicknat, refused, workplace
from quicknat.download import unpacking
from quicknat.images.volumes import MAX_BYTES

pytestmark = pytest.mark.timeout(3600, method="thread")  # also ends what hangs outside Python

PLAIN, LINK, HARDLINK, DEVICE, FIFO = (
    tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
)  # fmt: skip
SQUEEZE = {"": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def tar(members: list[tuple[str, bytes, bytes]], squeeze: str = "", form: int = 2) -> bytes:
    """A tar archive of members: name, type, and content, or target of a link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind in (LINK, HARDLINK):
                info.linkname = content.decode("utf-8", "replace")
            else:
                info.size = len(content) if kind == PLAIN else 0
            archive.addfile(info, io.BytesIO(content))
    return SQUEEZE[squeeze](stream.getvalue())


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


NAMES = st.one_of(
    st.sampled_from(
        [
            "a.img", "d/a.img", "d/a.hdr", "./a.img", "../a.img", "d/../../a.img", "/a.img",
            "/tmp/a.img", "..\\a.img", "C:\\a.img", "C:a.img", "a.img/", "a.img/a.img", "A.IMG",
            "d//a.img", "d/./a.img", "a.img\n../x", "a\x00.img", "a.img\udcff", "~/a.img",
            "\u202ea.img", "a" * 300 + ".img", "d/" * 200 + "a.img", "-a.img", "$(x).img",
        ]
    ),
    NASTY,
)  # fmt: skip
CONTENT = st.one_of(st.binary(max_size=60), st.sampled_from([b"../../evil", b"/etc", b"\0" * 3000]))
KINDS = st.sampled_from([PLAIN, PLAIN, PLAIN, LINK, HARDLINK, DEVICE, FIFO, tarfile.DIRTYPE])


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    members = draw(st.lists(st.tuples(NAMES, KINDS, CONTENT), max_size=5))
    try:
        if draw(st.booleans()):
            squeeze = draw(st.sampled_from(list(SQUEEZE)))
            form = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, 2]))
            content = tar(members, squeeze, form)
        else:
            pairs = [(name, content) for name, _, content in members]
            content = zipped(pairs, draw(st.sampled_from([0, 8, 12, 14])))
    except (ValueError, OverflowError):  # Python itself refuses to write that
        content = zipped([("a.img", b"1")])
    return draw(damaged(content))


def unpacked_or_refused(content: bytes, patterns: list[str]) -> None:
    with workplace() as root:
        archive, folder = root / "in/source.archive", root / "out/source"
        archive.write_bytes(content)
        before = contents(root / "in")
        manifest = root / "out/source.members.txt"
        options = [f"--member={pattern}" for pattern in patterns]
        done = quicknat("unpack", archive, *options, "--folder", folder, "--manifest", manifest)
        written = contents(root / "out")
        if done.status == 0:
            names = set(manifest.read_text().splitlines())
            assert names == {
                name.removeprefix("source/") for name in written if name.startswith("source/")
            }
            assert len(written) == len(names) + 1 and done.err == []
        else:
            refused(done, archive)
            assert written == {}
        assert not any(path.is_symlink() for path in root.rglob("*"))
        assert not [name for name in written if ".tmp-" in name]
        assert contents(root / "in") == before


@given(archives(), st.lists(st.sampled_from(["*", "*.img", "a.img", "d/*"]), min_size=1))
# a name with bytes that are no text broke the list of members
@example(tar([("a.img\udcff", PLAIN, b"1")], form=tarfile.GNU_FORMAT), ["*.img*"])
# a line break forged a line of it
@example(tar([("a\n../x.img", PLAIN, b"1")]), ["*.img"])
@example(zipped([("", b"1")]), ["*"])
def test_any_archive_is_unpacked_into_its_folder_or_refused(content, patterns):
    unpacked_or_refused(content, patterns)


@given(st.lists(NASTY.filter(lambda text: "\x00" not in text), min_size=1, max_size=3))
def test_any_pattern_of_members_is_looked_for_and_nothing_else(patterns):
    unpacked_or_refused(zipped([("d/a.img", b"1"), ("d/a.hdr", b"2")]), patterns)


def encrypted() -> bytes:
    """A zip file that says of its member that it is encrypted."""
    content = bytearray(zipped([("a.img", b"1" * 40)], zipfile.ZIP_STORED))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def unknown_method() -> bytes:
    content = bytearray(zipped([("a.img", b"1" * 40)], zipfile.ZIP_STORED))
    for where in (8, content.index(b"PK\x01\x02") + 10):
        content[where : where + 2] = struct.pack("<H", 97)
    return bytes(content)


def bad_deflate() -> bytes:
    content = bytearray(zipped([("a.img", bytes(range(256)) * 9)]))
    content[38:60] = b"\xff" * 22
    return bytes(content)


def bad_lzma() -> bytes:
    content = bytearray(zipped([("a.img", bytes(range(256)) * 9)], zipfile.ZIP_LZMA))
    content[44:80] = b"\xff" * 36
    return bytes(content)


def bad_gzip_inside() -> bytes:
    content = bytearray(tar([("a.img", PLAIN, bytes(range(256)) * 90)], "gz"))
    middle = len(content) // 2
    content[middle : middle + 30] = b"\xff" * 30
    return bytes(content)


@pytest.mark.parametrize(
    "make", [encrypted, unknown_method, bad_deflate, bad_lzma, bad_gzip_inside]
)
def test_archive_that_python_cannot_read_is_refused_by_name(tmp_path, make):
    (tmp_path / "a").write_bytes(make())
    done = quicknat(
        "unpack", tmp_path / "a", "--member=*", "--folder", tmp_path / "out", "--manifest",
        tmp_path / "m",
    )  # fmt: skip
    refused(done, tmp_path / "a", "damaged", "fetch it again")
    assert not (tmp_path / "m").exists() and contents(tmp_path / "out") == {}


def test_member_that_claims_to_be_larger_than_any_image_is_not_unpacked(tmp_path):
    info = tarfile.TarInfo("bomb.img")
    info.size = MAX_BYTES + 1
    (tmp_path / "a").write_bytes(info.tobuf() + bytes(5000))
    done = quicknat(
        "unpack", tmp_path / "a", "--member=*", "--folder", tmp_path / "out", "--manifest",
        tmp_path / "m",
    )  # fmt: skip
    refused(done, tmp_path / "a", "member 'bomb.img' unpacks to", "more than any image")
    assert contents(tmp_path / "out") == {}


def test_member_that_the_disk_has_no_room_for_is_not_begun(tmp_path, monkeypatch):
    class Full:
        free = 10

    monkeypatch.setattr("shutil.disk_usage", lambda folder: Full)
    (tmp_path / "a").write_bytes(zipped([("a.img", b"1" * 40)]))
    with pytest.raises(unpacking.InputError, match="make room there"):
        unpacking.unpack(tmp_path / "a", ["*"], tmp_path / "out")
    assert contents(tmp_path / "out") == {}
