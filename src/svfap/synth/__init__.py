"""Synthetic faces: procedural videos with known expressions, for demos, tests and learning experiments.

Scores on them say nothing about real faces.
"""
