"""Evaluation: multi-view testing, metrics, the predictions table, and pooling over folds."""
