"""QuickNAT whole-brain MRI segmentation, from raw scans to a report.

The first line of each module states its purpose; docs/explanation/architecture.md lists the modules
in processing order. ``cli`` holds the commands, ``errors`` the exceptions that users see.
"""

__version__ = "0.1.0"
