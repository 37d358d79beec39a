"""Model folders, weights and stacks of any content are used right, or refused in one line."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fuzzing import NASTY, NUMBERS, changed, contents, damaged, quicknat, workplace
from helpers import LABELS, save
from quicknat.errors import InputError
from quicknat.images.conform import load_conformed, record_grid
from quicknat.images.slices import VIEWS, open_stack
from quicknat.model.bundle import BUNDLE_FILES, load_bundle
from quicknat.model.network import QuickNAT
from quicknat.reruns import GRID_FORMAT

pytestmark = pytest.mark.timeout(3600, method="thread")  # also ends what hangs outside Python


@pytest.fixture(scope="session")
def files(model: Path) -> dict[str, bytes]:
    """The files of a small model."""
    return contents(model)


def stated(files: dict[str, bytes], described: dict | None = None) -> dict[str, bytes]:
    """The files with a description whose checksums fit, so that what lies behind is reached."""
    described = json.loads(files["bundle.json"]) if described is None else described
    entries = [described["labels"], *described["views"].values()]
    for entry, key in zip(entries, ["file", *["weights"] * len(VIEWS)], strict=True):
        entry["sha256"] = hashlib.sha256(files.get(entry[key], b"")).hexdigest()
    return {**files, "bundle.json": json.dumps(described).encode()}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def used_or_refused(use, path: Path):
    """What `use` makes of a path; None after a refusal, which must name the path."""
    try:
        return use(path)
    except InputError as error:
        assert str(path) in str(error) and len(str(error)) < 3000


def loaded_or_refused(files: dict[str, bytes]) -> None:
    with workplace() as root:
        bundle = used_or_refused(load_bundle, write(root / "in", files))
        if bundle:
            assert set(bundle.networks) == set(bundle.weights) == set(VIEWS)
            assert 16 <= bundle.conform_size <= 1024 and bundle.spacing_mm > 0


@given(st.sampled_from(BUNDLE_FILES), st.booleans(), st.data())
def test_model_with_bytes_changed_is_loaded_or_refused(files, name, checksums_fit, data):
    found = {**files, name: data.draw(damaged(files[name], head=400))}
    loaded_or_refused(stated(found) if checksums_fit and name != "bundle.json" else found)


VALUES = st.one_of(NUMBERS, NASTY, st.none(), st.just([]), st.just({}), st.booleans())


@given(st.data())
def test_any_description_of_a_model_is_believed_only_if_it_fits(files, data):
    described = data.draw(changed(json.loads(files["bundle.json"]), VALUES))
    loaded_or_refused({**files, "bundle.json": json.dumps(described).encode()})


def with_network(files: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    described = json.loads(files["bundle.json"])
    described["views"]["coronal"]["network"] |= changes
    return stated(files, described)


@pytest.mark.parametrize("filters", [1024, 10**9])
def test_description_of_a_giant_network_takes_no_memory(files, tmp_path, filters, monkeypatch):
    write(tmp_path, with_network(files, filters=filters))
    monkeypatch.setattr(QuickNAT, "to_empty", None)  # which takes the memory
    with pytest.raises(InputError, match=r"network|filters"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "..", "a/b", "a\\b", "a" * 5000]
)
def test_description_that_names_files_elsewhere_is_refused(files, tmp_path, name):
    described = json.loads(files["bundle.json"])
    described["views"]["axial"]["weights"] = name
    (tmp_path / "outside.safetensors").write_bytes(files["axial.safetensors"])
    write(tmp_path / "model", stated(files, described))
    with pytest.raises(InputError, match=r"must name a file here|lacks its file"):
        load_bundle(tmp_path / "model")


def test_command_refuses_a_damaged_model_in_one_line_and_makes_no_folder(files, tmp_path):
    scan = save(tmp_path / "scan.nii.gz", np.arange(1000, dtype=np.int16).reshape(10, 10, 10))
    folder = write(tmp_path / "model", files | {"labels.tsv": b"index\n"})
    done = quicknat("segment", scan, "--model", folder, "--output", tmp_path / "out")
    done.refused(folder)
    assert not (tmp_path / "out").exists()


def test_network_of_an_earlier_version_is_read_unless_its_kernel_is_another(files, model, tmp_path):
    write(tmp_path, with_network(files, squeeze_excitation="CSSE", kernel=5))
    ours, theirs = (load_bundle(folder).networks["coronal"] for folder in (model, tmp_path))
    assert ours.settings == theirs.settings
    for kernel in (7, []):
        write(tmp_path, with_network(files, kernel=kernel))
        with pytest.raises(InputError, match=r"bundle\.json: 'kernel' is .*; remove it: the large"):
            load_bundle(tmp_path)


def written(write, content: object) -> bytes:
    stream = io.BytesIO()
    write(stream, content)
    return stream.getvalue()


WEIGHTS = written(
    lambda file, tensors: torch.save(tensors, file),
    {"encode1.conv1.weight": torch.zeros(2, 1, 3, 3)},
)
STACK = written(np.save, np.ones((3, 2, 16, 16), np.uint8))


@given(damaged(WEIGHTS))
# torch warned of the pickle's protocol, 75, in a second line
@example(WEIGHTS.replace(b"\x80\x02", b"\x80\x4b").replace(b"PK\x03", b"\x80K\x03", 1))
def test_any_weights_to_import_are_refused_or_imported(content):
    with workplace() as root:
        path = root / "in/weights.pth.tar"
        path.write_bytes(content)
        done = quicknat(
            "import-weights", path, "--view", "axial", "--protocol", LABELS / "tissues4.tsv",
            "--output", root / "out/a.safetensors",
        )  # fmt: skip
        done.refused(path)
        assert contents(root / "out") == {}


@given(damaged(STACK, head=128))
@example(STACK.replace(b"(3, 2, 16, 16)", b"(3, 2, 16, -6)"))
@example(STACK.replace(b"(3, 2, 16, 16), }  ", b"(9999, 2, 16, 16)}"))
def test_any_stack_is_opened_or_refused(content):
    with workplace() as root:
        (root / "in/a.npy").write_bytes(content)
        opened = used_or_refused(open_stack, root / "in/a.npy")
        assert opened is None or (opened.dtype == np.uint8 and opened.ndim == 4)
        del opened


RECORD = {
    "source": "a.nii", "source_sha256": "0", "source_shape": [4, 4, 4],
    "source_affine": np.eye(4).tolist(), "source_transforms": None,
    "orientation": "", "source_orientation": "RAS", "intensity_at_0_and_255": [0.0, 9.0],
    "source_voxel_mm": [1, 1, 1], "spacing_mm": 4.0, "size": 4, "head_outside_fraction": 0.0,
    "grid_format": GRID_FORMAT,
}  # fmt: skip


@given(changed(RECORD, st.one_of(NUMBERS, NASTY, st.none())))
@example(RECORD | {"source_shape": [2**20, 2**20, 2**20]})
@example(RECORD | {"source_affine": np.zeros((4, 4)).tolist()})
def test_any_sidecar_of_a_conformed_scan_is_used_or_refused(record):
    with workplace() as root:
        scan = save(root / "in/a_T1w.nii.gz", np.ones((4, 4, 4), np.uint8))
        (root / "in/a_T1w.json").write_text(json.dumps(record))
        try:
            _, _, found = load_conformed(scan)
        except InputError as error:
            assert str(root / "in/a_T1w") in str(error)
        else:
            assert record_grid(found).affine.shape == (4, 4)


ENDLESS = np.diag([1e-203, 1, 1, 1]).tolist()  # would be computed on forever
EARLIER = {key: RECORD[key] for key in RECORD if key != "orientation"}
UNFIT = [
    (RECORD | {"source_affine": ENDLESS}, 4, r"_T1w\.json: its affine cannot be used; delete it"),
    (EARLIER, 4, r"'orientation' is missing; delete it and the image"),
    (RECORD, 5, r"_T1w\.nii\.gz: has shape \(4, 4, 5\), its record"),
]


@pytest.mark.parametrize(("record", "slices", "message"), UNFIT, ids=range(len(UNFIT)))
def test_sidecar_that_does_not_fit_is_refused(tmp_path, record, slices, message):
    scan = save(tmp_path / "a_T1w.nii.gz", np.ones((4, 4, slices), np.uint8))
    (tmp_path / "a_T1w.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=message):
        load_conformed(scan)


ARGUMENTS = NASTY.filter(lambda text: not {"\x00", "\ud800"} & set(text))


@given(ARGUMENTS | st.sampled_from(["[]", "1", "{", "[" * 10**5, '{"epochs": "x"}', "{}"]))
def test_any_training_settings_are_refused_before_anything_is_written(text):
    with workplace() as root:
        (root / "in/list.txt").write_text("")
        done = quicknat(
            "train", "axial", "--stacks", root / "in/list.txt", "--validation",
            root / "in/list.txt", f"--settings={text}", "--protocol", LABELS / "tissues4.tsv",
            "--output", root / "out",
        )  # fmt: skip
        assert done.status in (1, 2), str(done)
        assert not any("Traceback" in line for line in done.err), str(done)
        assert contents(root / "out") == {}
