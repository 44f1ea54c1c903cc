//! The program; see [`backstitch::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(backstitch::cli::start(
        std::env::args_os(),
        backstitch::cli::run,
    ))
}
