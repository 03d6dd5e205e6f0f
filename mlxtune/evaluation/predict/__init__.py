"""A model, a recipe and a tokenizer to replies."""
