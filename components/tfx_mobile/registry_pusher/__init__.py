"""RegistryPusher: a blessed TFLite model goes, signed, into a mobile model registry."""
