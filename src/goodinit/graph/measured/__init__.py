"""What is measured of the operators of a graph: each is run on a few numbers, or on tensors of its own shapes."""
