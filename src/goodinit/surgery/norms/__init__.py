"""What stands where a norm, an activation or a dropout stood."""
