"""Model judges."""
