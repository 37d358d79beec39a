"""Data sets as people have them, of empty files, since only names matter to `quicknat sheet`."""

import io
import tarfile

T88 = "PROCESSED/MPRAGE/T88_111"


def tree(root, *files):
    """Touch the files below a folder; a name that ends with / is a folder."""
    for name in files:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


def oasis(visit, scans_averaged=4, labels=True):
    """Names of an OASIS-1 visit's files."""
    stem = f"{visit}_mpr_n{scans_averaged}_anon_111_t88"
    files = [f"{visit}/{T88}/{stem}_{kind}.{end}" for kind in ("gfc", "masked_gfc")
             for end in ("img", "hdr")]  # fmt: skip
    files.append(f"{visit}/RAW/{visit}_mpr-1_anon.img")
    if labels:
        files += [f"{visit}/FSL_SEG/{stem}_masked_gfc_fseg.{end}" for end in ("img", "hdr")]
    return files


def surfer(subject, *files):
    return [f"{subject}/mri/{name}" for name in files or ("orig.mgz", "aseg.mgz")]


def bids(stem, suffix="T1w.nii.gz", folder=""):
    """The path of a file of BIDS's; `stem` ends before the suffix."""
    visit = [part for part in stem.split("_") if part.startswith(("sub-", "ses-"))]
    return f"{folder}{'/'.join(visit)}/anat/{stem}_{suffix}"


def archive(path, *names):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


def ids(found):
    return [scan.id for scan in found.scans]
