"""An out-of-distribution scan is flagged with the reason; one like the training scans is not."""

import json

import numpy as np
import pytest

from quicknat.images.training_stats import ScanStatistics, describe_scan, ood_flags, summarise

NAMES = ["Background", "Left A", "Right A", "B", "C"]
PARTNER = np.array([-1, 2, 1, -1, -1])


def scan(voxels=(0, 100, 100, 400, 50), intensity=(5, 200, 200, 120, 60), outside=0.5):
    return ScanStatistics(np.array(voxels), np.array(intensity, float), outside)


@pytest.fixture
def training():
    scans = [scan(), scan(voxels=(0, 110, 100, 420, 60)), scan(outside=0.55)]
    return json.loads(json.dumps(summarise(scans, PARTNER)))  # as it comes out of the model


def flags(training, **changes):
    found = ood_flags(scan(**changes), training, NAMES, PARTNER, mm3=8.0)
    return {flag["flag"]: flag["reason"] for flag in found}


def test_statistics_of_a_hand_made_scan():
    image = np.array([[0, 100, 100], [200, 50, 10]], np.uint8)
    labels = np.array([[0, 1, 1], [0, 2, 0]], np.uint8)
    found = describe_scan([(image, labels), (image, labels)], n_classes=4)
    assert found.voxels.tolist() == [6, 4, 2, 0]
    np.testing.assert_allclose(found.intensity, [70, 100, 50, np.nan])
    assert found.outside == pytest.approx(1 / 4)  # 200 lies outside, of 100, 100, 200, 50


def test_scan_like_the_training_scans_has_no_flag(training):
    assert flags(training) == {}
    assert flags(training, voxels=(0, 120, 120, 450, 70)) == {}


@pytest.mark.case(28)
@pytest.mark.parametrize(
    ("changes", "flag", "reason"),
    [
        # the table of volumes has those on the scan's grid
        ({"voxels": (0, 100, 100, 700, 50)}, "implausible_volume",
         "volumes on the model's grid are far from those in training: B 5600 mm³ (3200 to 3360)"),
        ({"voxels": (0, 110, 70, 400, 50)}, "asymmetry",
         "Left A and its partner differ by 22% of their sum"),
        ({"outside": 0.1}, "other_field", "this scan looks skull-stripped"),
        ({"outside": 0.8}, "other_field", "this scan looks not skull-stripped"),
        ({"intensity": (5, 60, 60, 130, 190)}, "other_contrast", "is this a T1w scan?"),
    ],
)  # fmt: skip
def test_scan_unlike_the_training_scans_is_flagged_with_the_reason(training, changes, flag, reason):
    reasons = flags(training, **changes)
    assert list(reasons) == [flag] and reason in reasons[flag]
