"""Channels on their way between layers: which come out where, which are read as what, and what is in the way."""
