"""Training: optimiser and schedules, the loop, and the tasks that it serves."""
