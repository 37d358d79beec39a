"""Compare segmentations with references: scores of scans and of cohorts."""
