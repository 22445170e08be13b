"""What counts as exact."""

#: Largest difference from the network, relative to the largest entry of its output.
TOLERANCES = {"float64": 1e-9, "float32": 2e-5}
