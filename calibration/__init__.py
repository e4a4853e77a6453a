"""Statistics of activations and the ranges chosen from them. Knows numbers, not graphs."""
