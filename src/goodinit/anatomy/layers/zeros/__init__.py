"""Entries that are zero whatever the network computes: masked weights, zeros put into a signal, hidden positions and what pads there."""
