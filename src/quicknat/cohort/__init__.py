"""The sheet: read and checked, or written from what is on disk; where its files are."""
