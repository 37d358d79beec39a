"""QuickNAT, its loss, and the files of a trained one."""
