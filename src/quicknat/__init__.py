"""QuickNAT whole-brain MRI segmentation, from raw scans to a report.

Each module says in its first line what it is for; docs/explanation/architecture.md lists them in
the order of the data. ``cli`` gives each step a command; ``errors`` holds the exceptions that users
meet.
"""

__version__ = "0.1.0"
