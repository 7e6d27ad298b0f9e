"""The same work on many items: restartable, in many processes or on a cluster."""
