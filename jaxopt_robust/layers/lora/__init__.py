"""Low-rank adapters, and the gradient of attention heads by them in linear time."""
