"""Archives stay in their folder, and give what was asked for."""

import io
import tarfile
import zipfile

import pytest

from quicknat.download.unpacking import unpack
from quicknat.errors import InputError


def make_zip(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)


def make_tar(path, names):
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_only_matching_members_are_unpacked_and_headers_come_along(tmp_path, make):
    make(tmp_path / "a", ["d/X_MR1.IMG", "d/X_MR1.HDR", "d/other.img", "e/scan.nii.gz"])
    written = unpack(tmp_path / "a", ["d/x_*.img", "e/scan.nii.gz"], tmp_path / "out")
    assert written == ["d/X_MR1.HDR", "d/X_MR1.IMG", "e/scan.nii.gz"]
    assert (tmp_path / "out/e/scan.nii.gz").read_text() == "e/scan.nii.gz"
    assert not (tmp_path / "out/d/other.img").exists()


@pytest.mark.case(54)
@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("name", ["../evil.nii", "/tmp/evil.nii", "a/../../evil.nii"])
def test_member_that_points_outside_is_refused(tmp_path, make, name):
    make(tmp_path / "a", [name])
    with pytest.raises(InputError, match="outside"):
        unpack(tmp_path / "a", ["*evil.nii"], tmp_path / "out")
    assert not list(tmp_path.rglob("evil.nii"))


@pytest.mark.case(54)
@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "BLKTYPE", "FIFOTYPE"])
def test_link_or_device_is_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a", "w") as archive:
        info = tarfile.TarInfo("scan.nii")
        info.type, info.linkname = getattr(tarfile, kind), "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(InputError, match="link or device"):
        unpack(tmp_path / "a", ["scan.nii"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_absent_member_is_refused_by_name(tmp_path):
    make_zip(tmp_path / "a", ["b.nii"])
    with pytest.raises(InputError, match=r"no member 'c\.nii'"):
        unpack(tmp_path / "a", ["b.nii", "c.nii"], tmp_path / "out")


def test_truncated_archive_is_refused(tmp_path):
    make_tar(tmp_path / "a", [f"{i}.nii" for i in range(500)])
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged"):
        unpack(tmp_path / "a", ["499.nii"], tmp_path / "out")


@pytest.mark.case(53)
def test_web_page_instead_of_an_archive_is_refused(tmp_path):
    (tmp_path / "a").write_text("<html>not found</html>")
    with pytest.raises(InputError, match="neither a zip nor a tar"):
        unpack(tmp_path / "a", ["x"], tmp_path / "out")
