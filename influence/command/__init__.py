"""The installed command: influences for people who have a table, and no code."""
