"""One scorer a kind of output field."""
