"""A cohort to check: a folder of small scans with a sheet, and scans that are bad."""

import numpy as np

from helpers import LABELS, save, tiny_labels, tiny_scan
from quicknat.cohort.check import check_cohort
from quicknat.cohort.examine import read_cache, write_cache
from quicknat.cohort.paths import CohortPaths

PROTOCOL = LABELS / "quicknat28.tsv"
COLUMNS = "subject image labels label_convention split participant session source labels_source"
SIDE = 52  # voxels of 2 mm that a head would fit in


class Cohort:
    """A folder with a sheet, and ways to check it."""

    def __init__(self, folder):
        self.folder, self.table = folder, folder / "out/check.tsv"
        self.rows, self.sources = [], {}

    def add(self, subject, image="", labels="", split="segment", make=tiny_scan, **columns):
        """Add a row, and make its files unless they are there."""
        image = f"{subject}.nii.gz" if image == "" else image or ""
        if image and make and not (self.folder / image).exists():
            make(self.folder / image)
        if labels and not (self.folder / labels).exists():
            tiny_labels(self.folder / labels)
        row = {"subject": subject, "image": image, "labels": labels, "split": split}
        self.rows.append(row | {"label_convention": "freesurfer" if labels else ""} | columns)

    def check(self):
        """Verdicts by scan; the cache is kept, as `quicknat check` does."""
        paths, protocol, cache, threads = self.arguments()
        verdicts, self.faulty = check_cohort(paths, protocol, cache, threads)
        write_cache(self.table, cache)
        return {verdict.scan: verdict for verdict in verdicts}

    def arguments(self):
        sheet, names = self.folder / "sheet.tsv", COLUMNS.split()
        lines = [names, *([row.get(name, "") for name in names] for row in self.rows)]
        sheet.write_text("\n".join("\t".join(line) for line in lines) + "\n")
        paths = CohortPaths(str(sheet), self.sources, str(self.folder / "results/raw"))
        return paths, PROTOCOL, read_cache(self.table), 2


def constant(path):
    save(path, np.full((12, 12, 12), 7, np.int16))
