"""A client of OpenAI-compatible chat servers."""
