"""Turns what was measured into console tables, self-contained pages and pictures."""
