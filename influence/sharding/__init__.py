"""Rows that live elsewhere: shards, the workers that load them, and sums over them in one order."""
