"""QuickNAT whole-brain MRI segmentation, from raw scans to a report.

The modules follow the way of the data: :mod:`~quicknat.cohort` and :mod:`~quicknat.sources`
say what there is, :mod:`~quicknat.volumes` and :mod:`~quicknat.labels` conform it,
:mod:`~quicknat.slices` cuts it, :mod:`~quicknat.network`, :mod:`~quicknat.losses`,
:mod:`~quicknat.data` and :mod:`~quicknat.training` learn from it, :mod:`~quicknat.bundle` and
:mod:`~quicknat.inference` apply it, :mod:`~quicknat.metrics`, :mod:`~quicknat.figures` and
:mod:`~quicknat.report` judge it.
"""

__version__ = "0.1.0"
