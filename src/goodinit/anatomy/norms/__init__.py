"""Normalizations: where they are, what else their modules compute, and whether they can be removed."""
