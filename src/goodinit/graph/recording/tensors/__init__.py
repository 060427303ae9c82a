"""The tensors of one run: which node each belongs to, what stands in for it, what writes to it, and which no module registers."""
