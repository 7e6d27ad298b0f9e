"""Figures of runs and predictions: each function takes numbers and returns a matplotlib `Figure`."""
