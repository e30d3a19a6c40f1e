"""Kubeflow Pipelines: compiling, the task's entrypoint, deploying."""
