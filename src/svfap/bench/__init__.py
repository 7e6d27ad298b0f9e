"""The speed of training, prediction and reading on this machine, and the settings that follow from it."""
