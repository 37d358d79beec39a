"""Automatic labels for scans that have none."""
