"""Base models as files: where they come from and what is in them."""
