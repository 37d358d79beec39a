"""Scans and label maps: read from any format, on one grid, in one label convention, in slices."""
