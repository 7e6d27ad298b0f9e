"""The same work on many items: restartable, in many processes or on a cluster."""

from svfap.bulk.run import check_engine, result_of, run_bulk, write_failures

__all__ = ["check_engine", "result_of", "run_bulk", "write_failures"]
