"""RegistryModel: what phones run now, fetched from the registry and verified, as a Model of a pipeline."""
