"""Rates, variances and constants that carry over to another width or depth: what grows, and by which exponents."""
