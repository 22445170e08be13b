"""The model at work outside of this library."""
