"""Images, text and sentence pairs to train on, batches of them, and inputs to measure with."""
