"""Training data from label maps: synthetic images and warped scans."""
