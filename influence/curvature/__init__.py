"""Curvature is a linear operator: what a solver multiplies with."""
