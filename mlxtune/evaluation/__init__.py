"""Predictions, and the figures made of them."""
