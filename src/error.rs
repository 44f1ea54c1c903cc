//! The one error type: what went wrong, with which file or operation, and the way out.

use std::path::{Path, PathBuf};

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every way in which the library fails.
///
/// `Display` gives one line that a user can act on; the binary prints it and exits 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },

    /// A file whose content cannot be used; the message says why and what to do.
    #[error("{}: {message}", path.display())]
    File { path: PathBuf, message: String },

    /// A value, option or shape that cannot be used; the message names it and the way out.
    #[error("{0}")]
    Invalid(String),

    /// A device that is absent or failed; the message names the device and the operation.
    #[error("{0}")]
    Device(String),

    /// A device whose memory does not suffice: fewer images or instances at once may fit.
    #[error("{0}; lower --capacity, or use a smaller network")]
    OutOfMemory(String),

    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// An [`Error::Io`] about `path`, for `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }

    /// An [`Error::File`] about `path`.
    pub fn file(path: impl AsRef<Path>, message: impl Into<String>) -> Error {
        Error::File {
            path: path.as_ref().to_path_buf(),
            message: message.into(),
        }
    }

    /// The error, about `path` where it names no file itself.
    pub fn about(self, path: impl AsRef<Path>) -> Error {
        match self {
            Error::Invalid(message) => Error::file(path, message),
            error => error,
        }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::Invalid(message.into())
    }
}
