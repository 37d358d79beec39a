"""Scans and label maps: read from any format, on one grid, in one numbering, in slices."""
