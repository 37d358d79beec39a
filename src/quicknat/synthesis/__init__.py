"""Training data made out of label maps: synthetic images, and warped scans."""
