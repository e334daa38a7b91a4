"""The paper's four models."""
