"""Training data made out of label maps: painted images, and scans in other shapes."""
