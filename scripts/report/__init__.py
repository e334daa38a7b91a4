"""What a run writes and a reader sees: settings, numbers, figures, the gallery."""
