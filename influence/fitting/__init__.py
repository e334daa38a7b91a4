"""Minimise an objective."""
