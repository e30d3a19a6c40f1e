"""SizeLatencyEvaluator: measures TFLite candidates as phones run them, chooses one and says why."""
