"""Influences of Keras models."""
