"""The project's errors: one tree, split by who can fix it.

A message has the rule, what was got, where, and what to do about it.
"""


class TfxMobileError(Exception):
    """Base of every error this project raises on purpose."""


class ConfigError(TfxMobileError, ValueError):
    """The pipeline's author can fix it: a setting, a module, a column mapping."""


class DataError(TfxMobileError, ValueError):
    """It comes from upstream data: a file, a row, a label, a non-finite number."""


class RegistryError(TfxMobileError):
    """The registry's operator can fix it: keys, permissions, conflicting versions, bad signatures."""
