"""PTX executed on NumPy."""
