"""Sections of several runs in one report."""
