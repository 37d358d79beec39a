"""Archives of any content give files inside their folder, or are refused in one line."""

from __future__ import annotations

import io
import tarfile
import warnings
import zipfile
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzzing import NASTY, contents, damaged, quicknat, workplace
from quicknat.images.volumes import MAX_BYTES

pytestmark = pytest.mark.timeout(3600, method="thread")  # also ends what hangs outside Python

PLAIN, LINK, HARDLINK, DEVICE, FIFO = (
    tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
)  # fmt: skip


def tar(members: list[tuple[str, bytes, bytes]], squeeze: str = "", form: int = 2) -> bytes:
    """A tar archive of members: name, type, and content, or target of a link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{squeeze}", format=form) as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind in (LINK, HARDLINK):
                info.linkname = content.decode("utf-8", "replace")
            else:
                info.size = len(content) if kind == PLAIN else 0
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


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
PATTERNS = NASTY.filter(lambda text: "\x00" not in text)  # no argument can have it
KINDS = st.sampled_from([PLAIN, PLAIN, PLAIN, LINK, HARDLINK, DEVICE, FIFO, tarfile.DIRTYPE])


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    members = draw(st.lists(st.tuples(NAMES, KINDS, CONTENT), max_size=5))
    squeeze = draw(st.sampled_from(["", "gz", "bz2", "xz", 0, 8, 12, 14]))  # of tar, and of zip
    try:
        if isinstance(squeeze, str):
            content = tar(members, squeeze, draw(st.integers(0, 2)))
        else:
            content = zipped([(name, content) for name, _, content in members], squeeze)
    except (ValueError, OverflowError):  # Python itself refuses to write that
        content = zipped([("a.img", b"1")])
    return draw(damaged(content))


def unpack(root, content: bytes, *patterns: str):
    """Unpack ``in/source.archive`` to ``out/source``, with the list beside it."""
    (root / "in").mkdir(exist_ok=True)
    (root / "in/source.archive").write_bytes(content)
    options = [f"--member={pattern}" for pattern in patterns]
    options += ["--folder", root / "out/source", "--manifest", root / "out/source.members.txt"]
    return quicknat("unpack", root / "in/source.archive", *options)


@given(archives(), st.lists(st.sampled_from(["*", "*.img", "a.img", "d/*"]) | PATTERNS, min_size=1))
# a name with bytes that are no text broke the list of members
@example(tar([("a.img\udcff", PLAIN, b"1")], form=tarfile.GNU_FORMAT), ["*.img*"])
# a line break forged a line of it
@example(tar([("a\n../x.img", PLAIN, b"1")]), ["*.img"])
@example(zipped([("", b"1")]), ["*"])
@example(zipped([("d/", b""), ("d/a.img", b"1")]), ["*"])
@example(zipped([("d/a.img", b"1"), ("d/a.hdr", b"2")]), ["/etc/passwd", "[!"])
def test_any_archive_is_unpacked_into_its_folder_or_refused(content, patterns):
    with workplace() as root:
        done = unpack(root, content, *patterns)
        written = contents(root / "out")
        if done.status == 0:
            names = set(written.pop("source.members.txt").decode().splitlines())
            assert {f"source/{name}" for name in names} == set(written) and done.err == []
        else:
            done.refused(root / "in/source.archive")
            assert written == {}
        assert not any(path.is_symlink() for path in root.rglob("*"))
        assert not [name for name in written if ".tmp-" in name]
        assert contents(root / "in") == {"source.archive": content}


SCAN = ("a.img", bytes(range(256)) * 90)


def changed(content: bytes, *changes: tuple[int, bytes]) -> bytes:
    """An archive with other bytes at some places."""
    data = bytearray(content)
    for where, new in changes:
        data[where : where + len(new)] = new
    return bytes(data)


def bomb() -> bytes:
    info = tarfile.TarInfo("bomb.img")
    info.size = MAX_BYTES + 1
    return info.tobuf() + bytes(5000)


STORED, SQUEEZED = zipped([SCAN], zipfile.ZIP_STORED), tar([(SCAN[0], PLAIN, SCAN[1])], "gz")
LISTED = STORED.index(b"PK\x01\x02")  # where its list of members begins
FAULTS = {  # what the line says of each
    "encrypted": (changed(STORED, (6, b"\1"), (LISTED + 8, b"\1")), "damaged"),
    "unknown method": (changed(STORED, (8, b"a\0"), (LISTED + 10, b"a\0")), "damaged"),
    "bad deflate": (changed(zipped([SCAN]), (38, b"\xff" * 22)), "damaged"),
    "bad lzma": (changed(zipped([SCAN], zipfile.ZIP_LZMA), (44, b"\xff" * 36)), "damaged"),
    "bad gzip": (changed(SQUEEZED, (len(SQUEEZED) // 2, b"\xff" * 30)), "damaged"),
    "truncated": (SQUEEZED[: len(SQUEEZED) // 2], "damaged"),
    "claims to be larger than any image": (bomb(), "unpacks to 9 GB, more than any image"),
    "web page": (b"<html>not found</html>", "neither a zip nor a tar"),
    "no such member": (zipped([("b.nii", b"1")]), "has no member '*.img'"),
    **{
        f"{make.__name__} {name}": (make([(name, *kind, b"1")]), "outside")
        for name in ("../evil.img", "/tmp/evil.img", "a/../../evil.img")
        for make, kind in ((zipped, ()), (tar, (PLAIN,)))
    },
    **{
        f"link or device {kind}": (tar([("a.img", kind, b"/etc/passwd")]), "link or device")
        for kind in (LINK, HARDLINK, DEVICE, FIFO, tarfile.BLKTYPE)
    },
}


@pytest.mark.case(53, 54)
@pytest.mark.parametrize("fault", FAULTS)
def test_archive_is_refused_by_name_and_nothing_is_written(tmp_path, fault):
    content, reason = FAULTS[fault]
    done = unpack(tmp_path, content, "*.img")
    done.refused(tmp_path / "in/source.archive", reason)
    assert "; " in done.err[0]  # what to do
    assert set(contents(tmp_path)) == {"in/source.archive"}


@pytest.mark.parametrize("make", [zipped, partial(tar, squeeze="gz")], ids=["zip", "tar"])
def test_only_matching_members_are_unpacked_and_headers_come_along(tmp_path, make):
    names = ["d/X_MR1.IMG", "d/X_MR1.HDR", "d/other.img", "e/scan.nii.gz"]
    kind = () if make is zipped else (PLAIN,)
    content = make([(name, *kind, name.encode()) for name in names])
    done = unpack(tmp_path, content, "d/x_*.img", "e/scan.nii.gz")
    assert done.status == 0
    wanted = ["d/X_MR1.HDR", "d/X_MR1.IMG", "e/scan.nii.gz"]
    written = contents(tmp_path / "out")
    assert written.pop("source.members.txt").decode().splitlines() == wanted
    assert written == {f"source/{name}": name.encode() for name in wanted}


def test_member_that_the_disk_has_no_room_for_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10))
    unpack(tmp_path, zipped([SCAN]), "*").refused(tmp_path / "out", fix="make room there")
    assert contents(tmp_path / "out") == {}
