"""The sparse network at work: in formats that are fast on this machine, and outside of this library."""
