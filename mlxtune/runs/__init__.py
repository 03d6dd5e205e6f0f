"""Run folders: their files, listing and cleaning."""
