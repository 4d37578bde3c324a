"""How good are explanations, and their number? Units whose explanation is known, on drawn text and on Python's own."""
