"""Apply a trained model to scans: label maps, volumes, uncertainty."""
