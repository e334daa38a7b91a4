"""Files on disk to data sets."""
