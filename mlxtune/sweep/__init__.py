"""One recipe with every combination of some settings: what they are, what of them is left to do, and doing it."""
