"""Which weights stay: elimination, exchange, thresholding, one price for all layers, and bounds."""
