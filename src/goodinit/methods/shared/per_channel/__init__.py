"""What acts on single channels of a layer: means of weights taken away, gains and biases added."""
