"""Statistics of activations and the ranges chosen from them. Knows numbers, not graphs."""

METHODS = ("minmax", "moving-average", "percentile", "entropy", "mse", "least-error")
"""Ways from statistics to ranges, as the command line names them: the file `moving_average.py` is `moving-average`."""
