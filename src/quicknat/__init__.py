"""QuickNAT whole-brain MRI segmentation, from raw scans to a report.

The modules follow the way of the data:

- ``cohort``, ``schema``, ``fetch``, ``sources``, ``demo``: what scans there are, and fetching them;
- ``volumes``, ``conform``, ``labels``: reading them, one grid, one numbering;
- ``autolabel``, ``external_labels``: labels for scans that have none;
- ``slices``, ``data``: cutting them into what the networks see;
- ``network``, ``losses``, ``optimizers``, ``training``: learning from them;
- ``bundle``, ``inference``: the model as a folder, and applying it;
- ``metrics``, ``figures``, ``report``: judging it.

``cli`` gives each step a command; ``errors`` holds the one exception that users meet.
"""

__version__ = "0.1.0"
