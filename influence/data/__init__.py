"""What every model is made of: points checked at the door, scans of them, kept files, vectors."""
