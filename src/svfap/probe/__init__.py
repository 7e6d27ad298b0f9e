"""Probing: what simple readers find in the frozen features of an encoder."""
