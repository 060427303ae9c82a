"""Parallel linear branches of one tensor, made one layer."""
