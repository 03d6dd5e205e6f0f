"""The parts of a report, a file a section: each makes blocks of values."""
