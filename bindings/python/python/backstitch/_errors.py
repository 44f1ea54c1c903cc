"""What backstitch raises. Every message is one line that says what is wrong and the way out."""


class Error(Exception):
    """Everything that backstitch raises of itself."""


class InvalidError(Error, ValueError):
    """A value, setting, shape or type that cannot be used."""


class FileError(Error, OSError):
    """A file that cannot be read, or whose content cannot be used."""


class DeviceError(Error, RuntimeError):
    """A device that is absent or failed."""


class OutOfMemoryError(DeviceError, MemoryError):
    """A device whose memory does not suffice."""


class ForkError(Error, RuntimeError):
    """A process that was forked from one that had used backstitch, and has not its threads."""
