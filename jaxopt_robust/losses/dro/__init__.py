"""Distributionally robust means: the worst case over reweightings of the examples."""
