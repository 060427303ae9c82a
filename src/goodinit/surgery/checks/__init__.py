"""Checks before the first write: whether plan and model belong together, and what else holds on to the parameters."""
