"""QuickNAT whole-brain MRI segmentation, from raw scans to a report.

The modules follow the way of the data:

- ``layouts``, ``survey``, ``sheets``: writing a cohort's sheet from data on disk;
- ``cohort``, ``schema``, ``places``: reading it, and where its files are;
- ``fetch``, ``transfer``, ``sources``, ``demo``: fetching and unpacking them;
- ``checking``, ``examine``, ``findings``, ``verdicts``, ``space``: whether they can be used;
- ``volumes``, ``conform``, ``labels``: reading them, one grid, one numbering;
- ``autolabel``, ``external_labels``: labels for scans that have none;
- ``slices``, ``data``: cutting them into what the networks see;
- ``network``, ``losses``, ``optimizers``, ``plan``, ``learner``, ``training``: learning from them;
- ``bundle``, ``weights``, ``export``, ``reference``: the model as a folder, ours and others';
- ``inference``, ``batch``, ``outputs``, ``lookup``, ``population``: applying it;
- ``metrics``, ``figures``, ``report``: judging it.

``cli`` gives each step a command; ``errors`` holds the one exception that users meet.
"""

__version__ = "0.1.0"
