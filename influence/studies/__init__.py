"""What is done with influences: refits, retraining, label fixing, attacks."""
