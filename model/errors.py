"""What can be wrong with a model's files, and with what it is asked to score."""

import clearline


class BundleError(clearline.UsageError):
    """A bundle is missing, truncated, tampered with, of another version, or not ours."""


class CalibrationError(clearline.UsageError):
    """A calibration is unreadable, or belongs to another bundle or data type."""


class SaveError(clearline.Error):
    """A file could not be written whole. What stood under its name before still stands there."""


class FrameShapeError(clearline.Error):
    """A frame this model cannot score: too small, or of other channels."""


class EngineError(clearline.Error):
    """This device or data type does not give the bundle's own scores."""
