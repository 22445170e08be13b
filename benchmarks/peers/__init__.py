"""Other solvers on the same rows, one file each, run by ``python -m peers.run`` in an environment of their own."""
