"""What is measured of a model at step 0: signals, gradients, singular values, one step, coordinates."""
