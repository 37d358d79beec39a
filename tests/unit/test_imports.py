"""What `quicknat segment` imports, and so what it waits for and needs."""

import subprocess
import sys

import pytest

NOT_NEEDED = {"SimpleITK", "torchio", "snakemake", "tensorboard", "monai", "matplotlib"}


@pytest.mark.slow
def test_segmenting_imports_nothing_that_only_other_stages_need(model, head_file, tmp_path):
    program = (
        "import sys; from quicknat.cli import app; app(sys.argv[1:], standalone_mode=False);"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    command = ["segment", head_file, "--model", model, "--output", tmp_path / "out", "--threads", 1]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, command)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (tmp_path / "out/sub-head/anat/sub-head_desc-quicknat_dseg.nii.gz").is_file()
    imported = set(done.stdout.split())
    assert "torch" in imported and not imported & NOT_NEEDED, imported & NOT_NEEDED
