"""The operations: checks, gradients, and calls of primitives. One family a file."""
