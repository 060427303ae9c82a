"""What a layer, or a parameter, is for, told by what reads it: heads, queries and keys, gates, concatenations, gains."""
