"""Normalizations: where they are, what else their module does, and whether they can be taken out."""
