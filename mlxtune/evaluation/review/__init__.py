"""Sheets for people, out and back in."""
