"""What stops a start, in words for a person."""


class StartFailed(Exception):
    """Say why the start can't go on and what to do about it, in one line; `detail` holds lines of a log."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail
