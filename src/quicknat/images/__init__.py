"""Read scans and label maps of any format, conform them, and cut them into slices."""
