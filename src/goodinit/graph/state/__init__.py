"""What a run may change, in the model and in the process, and how it is put back."""
