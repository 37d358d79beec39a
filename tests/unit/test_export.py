"""A model as a MONAI bundle: MONAI accepts it, and its network answers as ours."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from quicknat.errors import InputError
from quicknat.model import export
from quicknat.model.bundle import load_bundle
from quicknat.model.export import export_bundle, volumetric
from quicknat.segmentation.inference import predict

# what MONAI's specification of metadata.json calls mandatory; its own schema is at an address that
# a test cannot reach
REQUIRED = {
    "schema", "version", "monai_version", "pytorch_version", "numpy_version", "task",
    "required_packages_version", "description", "authors", "copyright", "network_data_format",
}  # fmt: skip
RUN = """
import sys
import torch
from monai.bundle import ConfigParser, verify_net_in_out

sys.modules["quicknat"] = None  # importing it is an error
files = {"meta_file": "configs/metadata.json", "config_file": "configs/inference.json"}
verify_net_in_out(net_id="network", device="cpu", **files)
parser = ConfigParser()
parser.read_config(files["config_file"])
network = parser.get_parsed_content("network")
with torch.inference_mode():
    torch.save(network(torch.load(sys.argv[1])), sys.argv[2])
"""


@pytest.fixture(scope="module")
def window():
    """Two balls of different brightness in air, and slices of nothing around them."""
    grid = np.indices((48, 48, 48)) - 23.5
    image = np.where((grid**2).sum(axis=0) < 18**2, 120, 0)
    image[np.where(((grid - 5) ** 2).sum(axis=0) < 8**2)] = 200
    return image.astype(np.uint8)


@pytest.fixture(autouse=True)
def without_onnx(request, monkeypatch):
    """ONNX files take their time: only the test that is about them has them made."""
    if "onnx_networks" not in request.node.name:
        monkeypatch.setattr(export, "find_spec", lambda name: None)


@pytest.mark.parametrize("mirror", [False, True])
def test_volumetric_network_gives_the_probabilities_of_the_slices(model, window, mirror):
    bundle = replace(load_bundle(model), flip=mirror)
    ours = predict(bundle, window)
    with torch.inference_mode():
        whole = volumetric(bundle)(torch.from_numpy(window)[None, None] / 255)[0]
    assert 0 < ours.start[0] < 24  # a box of it
    box = tuple(slice(s, s + n) for s, n in zip(ours.start, ours.views["axial"].shape, strict=True))
    # the same sums in another memory format
    torch.testing.assert_close(whole[(slice(None), *box)], ours.probabilities, atol=1e-3, rtol=0)
    outside = torch.ones(window.shape, dtype=bool)
    outside[box] = False
    assert (whole.argmax(dim=0)[outside] == 0).all()


@pytest.mark.slow
def test_monai_accepts_the_bundle_and_runs_its_network_without_this_package(
    model, window, tmp_path
):
    export_bundle(model, made := tmp_path / "made/bundle")
    torch.save(torch.from_numpy(window)[None, None] / 255, tmp_path / "in.pt")
    command = [sys.executable, "-c", RUN, tmp_path / "in.pt", tmp_path / "out.pt"]
    done = subprocess.run(list(map(str, command)), cwd=made, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "out.pt")[0]
    with torch.inference_mode():
        ours = volumetric(load_bundle(model))(torch.load(tmp_path / "in.pt"))[0]
    torch.testing.assert_close(found, ours, atol=1e-3, rtol=0)
    for name in ("LICENSE", "docs/README.md", "docs/labels.tsv", "models/model.pt"):
        assert (made / name).is_file()


def test_export_says_what_it_does_not_do_and_lacks_and_never_overwrites(model, tmp_path, caplog):
    moved = shutil.copytree(model, tmp_path / "moved")
    described = json.loads((moved / "bundle.json").read_text())
    (moved / "bundle.json").write_text(json.dumps(described | {"shift": True}))
    for folder in (model, moved):
        made = tmp_path / f"exported {folder.name}"
        export_bundle(folder, made)
        text = (made / "docs/README.md").read_text()
        assert ("half a voxel" in text) == (folder == moved) and not (made / "onnx").exists()
        assert json.loads((made / "configs/metadata.json").read_text()).keys() >= REQUIRED
    assert "pip install onnx onnxscript" in caplog.text
    with pytest.raises(InputError, match="exists; choose another folder"):
        export_bundle(model, tmp_path)


@pytest.mark.slow
def test_onnx_networks_give_the_probabilities_of_torch(model, window, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    bundle = load_bundle(model)
    export_bundle(model, tmp_path / "made")
    size = bundle.slice_size
    slices = torch.rand(3, 1, size, size)
    for view, network in bundle.networks.items():
        session = runtime.InferenceSession(tmp_path / f"made/onnx/{view}.onnx")
        said = session.get_modelmeta().custom_metadata_map
        assert json.loads(said["classes"]) == bundle.protocol.class_names(view)
        assert (said["view"], said["model"]) == (view, bundle.identity)
        for some in (slices, slices[:1]):  # any number of slices
            (found,) = session.run(["probabilities"], {"slices": some.numpy()})
            with torch.inference_mode():
                ours = network(some).softmax(dim=1)
            torch.testing.assert_close(torch.from_numpy(found), ours, atol=1e-3, rtol=0)
