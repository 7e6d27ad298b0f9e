"""Scoring: pure functions from arrays of truth and predictions to plain numbers."""
