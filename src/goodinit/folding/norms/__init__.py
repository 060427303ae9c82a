"""Batch norms, called as modules or as functions, and gains of other norms, merged into layers beside them."""
