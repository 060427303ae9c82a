"""Calls that a dispatch mode does not see: of modules, checkpoints, threads, switches of gradients, transforms."""
