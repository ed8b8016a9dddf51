"""Data: block specs, genotypes, search spaces, costs. Needs no torch."""
