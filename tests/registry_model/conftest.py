"""The evaluator's tiny files, for pipelines that release them."""

from tests.size_latency_evaluator.conftest import tiny

__all__ = ["tiny"]
