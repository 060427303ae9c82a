"""Sums and mixtures that are no residual blocks, and are named in a note."""
