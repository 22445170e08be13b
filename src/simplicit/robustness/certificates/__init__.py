"""Certificates: bounds on the margins of a model over boxes of inputs, and what they are made of."""
