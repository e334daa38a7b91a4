"""Parts of experiments that are too long for one file, or that two of them share."""
