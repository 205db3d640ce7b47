"""The CUDA sources, as package data."""
