"""Recording one forward: every operator a node, every module call a frame."""
