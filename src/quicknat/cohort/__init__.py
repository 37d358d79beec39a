"""The cohort's sheet: read, check or write it, and locate its files."""
