"""A trained model applied to scans: label maps, volumes, and how sure they are."""
