"""The evaluation as one HTML page that needs nothing but itself: verdict first, then why."""

from tfx_mobile.size_latency_evaluator.evaluation import Evaluation


def render(evaluation: Evaluation) -> str:
    """Returns the page."""
    import html

    return f"<!doctype html><title>Evaluation</title><p>{html.escape(evaluation.reason)}</p>"
