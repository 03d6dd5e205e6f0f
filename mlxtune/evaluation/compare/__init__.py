"""Evaluated runs side by side."""
