"""Trainings with other settings: which are best on the validation part, over several seeds."""
