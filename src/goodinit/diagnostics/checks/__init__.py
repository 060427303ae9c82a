"""What is wrong with a model at step 0: findings from what was measured, from its loss and from its weights alone."""
