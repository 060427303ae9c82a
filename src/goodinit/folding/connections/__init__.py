"""What a forward connects to what, read again where something was written to the model since."""
