"""Vectors of a trained encoder for any videos."""
