"""The example: taxi fares, from raw rows to a signed TFLite file in a mobile model registry."""
