"""Segmentations beside references: scores of scans and of cohorts."""
