//! The one error type: what went wrong, with which file, option or device, and the way out.

use std::fmt;
use std::path::{Path, PathBuf};

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every way in which the library fails.
///
/// `Display` gives one line that a user can act on, in which options have the library's names. A front end that
/// has its own spelling of them uses [`spelled`](Error::spelled).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },

    /// A file whose content cannot be used.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why it cannot be used.
        message: Message,
    },

    /// A value, option or shape that cannot be used.
    #[error("{0}")]
    Invalid(Message),

    /// A device that is absent or failed; the message names the device and the operation.
    #[error("{0}")]
    Device(Message),

    /// A device whose memory does not suffice: fewer images or instances at once may fit.
    #[error("{0}")]
    OutOfMemory(Message),

    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What an error says: the option that it is about, the fault, and a hint.
///
/// In the hint, options stand in backticks by the names of the library, with a value behind `=` where one is
/// advised: ``use `size=224x224` ``.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    option: Option<String>,
    text: String,
    hint: Option<String>,
}

impl Message {
    /// The same with a hint.
    pub fn hint(self, hint: impl Into<String>) -> Message {
        Message {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// The same with `start` before its text.
    pub fn before(self, start: &str) -> Message {
        Message {
            text: format!("{start}{}", self.text),
            ..self
        }
    }

    /// The line that `spell` makes of it, from each option's name and the value that is advised for it.
    fn spelled(&self, spell: &dyn Fn(&str, Option<&str>) -> String) -> String {
        let mut line = String::new();
        if let Some(option) = &self.option {
            line += &spell(option, None);
            line.push(' ');
        }
        line += &self.text;
        if let Some(hint) = &self.hint {
            line += "; ";
            // Every second part was in backticks.
            for (i, part) in hint.split('`').enumerate() {
                match (i % 2, part.split_once('=')) {
                    (0, _) => line += part,
                    (_, Some((name, value))) => line += &spell(name, Some(value)),
                    (_, None) => line += &spell(part, None),
                }
            }
        }
        // Names of files and nodes may have line breaks.
        line.replace(|c: char| c.is_control(), " ")
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |name: &str, value: Option<&str>| match value {
            Some(value) => format!("`{name}={value}`"),
            None => format!("`{name}`"),
        };
        f.write_str(&self.spelled(&plain))
    }
}

impl<T: Into<String>> From<T> for Message {
    fn from(text: T) -> Self {
        Message {
            option: None,
            text: text.into(),
            hint: None,
        }
    }
}

impl Error {
    /// An [`Error::Io`] about `path`, for `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }

    /// An [`Error::File`] about `path`.
    pub fn file(path: impl AsRef<Path>, message: impl Into<Message>) -> Error {
        Error::File {
            path: path.as_ref().to_path_buf(),
            message: message.into(),
        }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(message: impl Into<Message>) -> Error {
        Error::Invalid(message.into())
    }

    /// An [`Error::Invalid`] about the option called `name`: what it must be.
    pub fn option(name: impl Into<String>, text: impl Into<String>) -> Error {
        Error::Invalid(Message {
            option: Some(name.into()),
            ..text.into().into()
        })
    }

    /// An [`Error::Device`].
    pub fn device(message: impl Into<Message>) -> Error {
        Error::Device(message.into())
    }

    /// An [`Error::OutOfMemory`].
    pub fn out_of_memory(message: impl Into<Message>) -> Error {
        let error = Error::OutOfMemory(message.into());
        error.hint("lower `capacity`, or use a smaller network")
    }

    /// The same with a hint, which names options as [`Message`] says. Errors of the operating system and
    /// interruptions stay as they are.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        if let Some(message) = self.message_mut() {
            message.hint = Some(hint.into());
        }
        self
    }

    /// The error, about `path` where it names no file itself.
    pub fn about(self, path: impl AsRef<Path>) -> Error {
        match self {
            Error::Invalid(message) => Error::file(path, message),
            error => error,
        }
    }

    /// The line that `Display` gives, with every option as `spell` makes it from the option's name in the library
    /// and the value that is advised for it.
    pub fn spelled(&self, spell: &dyn Fn(&str, Option<&str>) -> String) -> String {
        match self {
            Error::File { path, message } => {
                format!("{}: {}", path.display(), message.spelled(spell))
            }
            Error::Invalid(message) | Error::Device(message) | Error::OutOfMemory(message) => {
                message.spelled(spell)
            }
            Error::Io { .. } | Error::Interrupted => self.to_string(),
        }
    }

    fn message_mut(&mut self) -> Option<&mut Message> {
        match self {
            Error::File { message, .. }
            | Error::Invalid(message)
            | Error::Device(message)
            | Error::OutOfMemory(message) => Some(message),
            Error::Io { .. } | Error::Interrupted => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the command line spells options.
    fn flags(error: &Error) -> String {
        error.spelled(&|name, value| {
            let value = value.map_or(String::new(), |value| format!(" {value}"));
            format!("--{}{value}", name.replace('_', "-"))
        })
    }

    #[test]
    fn options_are_spelled_by_the_front_end() {
        let error = Error::option("segment_points", "must be at most 9")
            .hint("lower `segment_points` or set `reach_points=0`");
        assert_eq!(
            error.to_string(),
            "`segment_points` must be at most 9; lower `segment_points` or set `reach_points=0`"
        );
        assert_eq!(
            flags(&error),
            "--segment-points must be at most 9; lower --segment-points or set --reach-points 0"
        );
    }

    #[test]
    fn what_is_not_a_hint_stays_as_it_is() {
        let error = Error::invalid("no `x=1` here").about("a`b=c`");
        assert_eq!(flags(&error), "a`b=c`: no `x=1` here");
        assert_eq!(error.to_string(), flags(&error));
        assert_eq!(flags(&Error::Interrupted.hint("`x`")), "interrupted");
        let full = Error::out_of_memory("no memory");
        assert_eq!(
            flags(&full),
            "no memory; lower --capacity, or use a smaller network"
        );
    }
}
