"""A study per section of "Toy Models of Superposition" (Elhage et al. 2022), and its claims beside it."""
