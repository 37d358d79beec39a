"""Labels for scans that have none."""
