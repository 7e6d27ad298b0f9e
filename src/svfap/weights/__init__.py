"""Weights on disk: our folders, and the checkpoints that the authors of SVFAP and VideoMAE published."""
