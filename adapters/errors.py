"""What can go wrong at the edge: with a camera, with a picture on disk, with whom we tell."""

import clearline


class SourceError(clearline.Error):
    """A camera cannot be opened or no longer answers. The line goes on, the camera is retried."""


class SourceUrlError(clearline.UsageError):
    """A camera's URL cannot be understood."""


class ImageFileError(clearline.UsageError):
    """A picture on disk is missing, truncated or of a kind we cannot read."""


class PictureError(clearline.Error):
    """A picture could not be written."""


class SinkError(clearline.Error):
    """Whoever should receive events does not. They stay in the outbox and are sent again."""


class MessageError(clearline.Error):
    """A message from the PLC that cannot be understood. It is counted and let go."""


class FrameMessageError(clearline.Error):
    """A message is no picture of this format, and cannot be read."""
