"""The evaluator's tiny files, for a pipeline that blesses them."""

from tests.size_latency_evaluator.conftest import tiny

__all__ = ["tiny"]
