"""Settings that need a disk shared by all jobs are refused with object storage."""

import pytest

from quicknat.errors import InputError
from quicknat.run import require_for_storage


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"on_bad_scan": "skip"}, "on_bad_scan"),
        ({"training": {"new_scans": "warm_start"}}, "training.new_scans"),
        ({"training": {"initial_model": "1mm"}}, "training.initial_model"),
    ],
)
def test_setting_that_needs_a_shared_disk_is_refused(settings, named):
    with pytest.raises(InputError, match=f"'{named}' needs a disk"):
        require_for_storage(settings)


def test_other_settings_are_accepted():
    require_for_storage({"training": None})
    require_for_storage({"on_bad_scan": "stop", "training": {"new_scans": "retrain"}})
