"""Running pipelines: on this machine, with progress instead of a flood of logs."""
