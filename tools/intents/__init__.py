"""Phrase banks of `tools/make_intents.py`: one module a language, words only."""
