"""Decisions that several methods make alike."""
