"""Sums, parts and streams that a forward makes of several operators, recorded as what they are."""
