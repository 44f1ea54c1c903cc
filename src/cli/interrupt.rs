//! Ctrl-C and SIGTERM: the first finishes the pictures in flight, the second stops at once.

use std::sync::atomic::{AtomicBool, Ordering};

use log::Level;

use super::messages;
use crate::error::{Error, Result};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Catches the signals. What this returns becomes true when the user wants to stop: a pipeline polls it
/// before it starts a picture.
///
/// # Errors
/// The handler cannot be installed, or was before.
pub(crate) fn catch() -> Result<&'static AtomicBool> {
    ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        messages::say(
            Level::Warn,
            "stopping after the pictures in flight; once more to stop at once",
        );
    })
    .map_err(|error| Error::invalid(format!("signals cannot be caught: {error}")))?;
    Ok(&REQUESTED)
}

/// Whether the user wants to stop.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
