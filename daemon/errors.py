"""What can go wrong in the daemon itself."""

import clearline


class ConfigurationError(clearline.UsageError):
    """A configuration that cannot be run: file, key, value, and what was expected."""


class StateError(clearline.UsageError):
    """The state folder cannot be used, or what lies in it is not ours."""


class WorkerError(clearline.Error):
    """The scoring process did not come up."""
