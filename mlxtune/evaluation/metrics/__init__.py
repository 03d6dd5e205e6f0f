"""Values to metrics with intervals."""
