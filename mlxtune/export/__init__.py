"""Trained adapters and models in the forms that other tools read."""
