//! The extension module of the Python package: the crate's face, with numpy's arrays for pictures. What it has is
//! described in `python/backstitch/_backstitch.pyi`, and what users see is in the Python files beside that.

mod arrays;
mod call;
mod engine;
mod errors;

use std::ffi::OsString;

use backstitch::cli;
use backstitch::cli::settings::Settings;
use pyo3::prelude::*;

#[pymodule]
mod _backstitch {
    #[pymodule_export]
    use super::arrays::png;
    #[pymodule_export]
    use super::engine::{Engine, Path, Row};
    #[pymodule_export]
    use super::{run_command_line, setting_names, version};
}

/// The crate's version.
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// The names of a purifier's settings.
#[pyfunction]
fn setting_names() -> Vec<String> {
    Settings::names()
}

/// Runs a command line, whose first word is the program; gives its exit code.
#[pyfunction]
fn run_command_line(py: Python<'_>, line: Vec<OsString>) -> u8 {
    py.detach(|| cli::start(line, cli::run))
}
