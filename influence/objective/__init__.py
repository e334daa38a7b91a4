"""An objective, said once, and what follows from it."""
