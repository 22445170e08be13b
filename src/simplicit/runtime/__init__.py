"""The sparse network at work: in formats that are fast on this machine, in small files, and outside of this library."""
