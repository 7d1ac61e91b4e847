"""Frozen encoders on downstream tasks: features once, small heads, learning rate selected on dev, run files, report."""
