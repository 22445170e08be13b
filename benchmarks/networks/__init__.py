"""The networks of the census, one file per family, and what is asked of each."""
