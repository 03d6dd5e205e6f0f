"""Rows to token batches: reading, cleaning, the output template, examples and batches."""
