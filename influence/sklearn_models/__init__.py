"""Influences of fitted scikit-learn estimators."""
