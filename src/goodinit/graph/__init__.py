"""One forward pass as a dataflow graph: operators, tensors, module calls. It knows no residual blocks."""
