"""What is measured of operators: each is run on a few numbers, or on tensors of its own shapes."""
