"""The student: configuration, encoder, masking, heads, and reading checkpoints."""
