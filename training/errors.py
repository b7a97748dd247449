"""What can be wrong with the material that a model learns from or is judged on."""

import clearline


class DataError(clearline.UsageError):
    """A data folder lacks what the work needs, or holds what does not fit."""


class TrainingError(clearline.Error):
    """The training itself went wrong."""
