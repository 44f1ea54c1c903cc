//! The crate's errors as Python's exceptions, with options spelled as keywords.

use backstitch::Error;
use pyo3::PyErr;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::import_exception;

import_exception!(backstitch._errors, DeviceError);
import_exception!(backstitch._errors, FileError);
import_exception!(backstitch._errors, ForkError);
import_exception!(backstitch._errors, InvalidError);
import_exception!(backstitch._errors, OutOfMemoryError);

/// The exception of an error.
pub(crate) fn raised(error: Error) -> PyErr {
    let line = line(&error);
    match error {
        Error::Io { .. } | Error::File { .. } => FileError::new_err(line),
        Error::Device(_) => DeviceError::new_err(line),
        Error::OutOfMemory(_) => OutOfMemoryError::new_err(line),
        Error::Interrupted => PyKeyboardInterrupt::new_err(()),
        _ => InvalidError::new_err(line),
    }
}

/// An error's line, its options spelled as keywords: `capacity`, `size="32x32"`, `reach_points=0`.
pub(crate) fn line(error: &Error) -> String {
    error.spelled(&|name, value| match value {
        None => name.to_owned(),
        Some(value) if value.parse::<f64>().is_ok() => format!("{name}={value}"),
        Some(value) => format!("{name}={value:?}"),
    })
}
