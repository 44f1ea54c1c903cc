//! Files as the rest of the program reads and writes them: nothing that can block is opened, and files appear only
//! when they are complete.

pub(crate) mod jsonl;
pub(crate) mod replace;
pub(crate) mod text;

use std::path::Path;

use crate::error::{Error, Result};

/// Opens a regular file: a folder, pipe or device is refused before it can block.
pub(crate) fn open_regular(path: &Path) -> Result<std::fs::File> {
    let kind = std::fs::metadata(path).map_err(Error::io(path))?;
    if !kind.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    std::fs::File::open(path).map_err(Error::io(path))
}
