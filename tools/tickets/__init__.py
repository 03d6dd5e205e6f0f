"""Phrase banks of `tools/make_tickets.py`: what tickets report and ask for, and how they are answered. Words only."""
