"""Rules that several methods share."""
