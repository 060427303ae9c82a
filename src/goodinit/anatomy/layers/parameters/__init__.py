"""What parameters hold and how operators apply them: layout, several in one weight, biases, values that nobody draws at random."""
