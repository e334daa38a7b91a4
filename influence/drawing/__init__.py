"""Pictures of influences, on Matplotlib's axes."""
