//! The program; see [`backstitch::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    backstitch::cli::start(backstitch::cli::run)
}
