"""What gives the same bytes again, and what only nearly (case 60)."""

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import brief_training, tiny_scan
from in_process import quicknat
from quicknat.config import Network
from quicknat.model.network import NetworkSettings, QuickNAT
from quicknat.model.weights import load_weights
from quicknat.training.trainer import train_view

NETWORK = Network(filters=4, squeeze_excitation="scse", dropout=0.2)
FILES = ("model.safetensors", "model.json")


@pytest.fixture
def train(stack, protocol, tmp_path):
    """Train an epoch with all that is random: order, augmentation, dropout."""
    before = torch.get_num_threads()

    def run(name, seed=0, threads=1):
        settings = brief_training(batch_size=8, network=NETWORK, seed=seed)
        torch.set_num_threads(threads)
        train_view("coronal", protocol, [stack], [], settings, tmp_path / name, None, threads)
        return tmp_path / name

    yield run
    torch.set_num_threads(before)


def content(folder):
    return [(folder / name).read_bytes() for name in FILES]


@pytest.mark.slow
@pytest.mark.case(60)
def test_training_with_the_same_seed_gives_the_same_bytes_and_with_another_others(train):
    first = content(train("first"))
    assert content(train("again")) == first
    assert content(train("another", seed=1))[0] != first[0]


@pytest.mark.slow
@pytest.mark.case(60)
def test_segmentation_done_again_gives_the_same_bytes(model, tmp_path):
    scan = tiny_scan(tmp_path / "sub-1_T1w.nii.gz", 48)
    found = []
    for name in ("first", "again"):
        options = ("--output", tmp_path / name, "--threads", 1, "--precision", "fp32", "--views")
        done = quicknat("segment", scan, "--model", model, *options)
        assert done.status == 0, done.err
        files = {
            path.name: path.read_bytes() for path in (tmp_path / name / "sub-1/anat").iterdir()
        }
        files.pop("sub-1_desc-quicknat_dseg.json")  # which has the date
        found.append(files)
    assert found[0] == found[1] and len(files) == 11


@pytest.mark.slow  # two threads for tiny slices take seconds on a busy machine
@pytest.mark.case(60)
def test_training_on_two_threads_gives_the_same_bytes_again_and_nearly_those_of_one(
    train, stack, protocol
):
    one, two, again = train("one"), train("two", threads=2), train("again", threads=2)
    assert content(two)[0] == content(again)[0]
    losses = [pd.read_csv(folder / "history.tsv", sep="\t")["train_loss"] for folder in (one, two)]
    pd.testing.assert_series_equal(*losses, rtol=0.005)
    slices, found = torch.from_numpy(np.load(stack)[:, :1].astype(np.float32) / 255), []
    for folder in (one, two):
        network = QuickNAT(protocol.n_classes("coronal"), NetworkSettings(**NETWORK.model_dump()))
        path = folder / "model.safetensors"
        load_weights(network, path, "coronal", protocol.class_names("coronal"))
        with torch.no_grad():
            found.append(network.eval()(slices).softmax(dim=1))
    torch.testing.assert_close(*found, rtol=0, atol=0.01)  # sums in another order
