"""Quantizer: models in, TFLite candidates out, preprocessing fused in."""
