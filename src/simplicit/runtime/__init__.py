"""The model and the network at work outside of this library."""
