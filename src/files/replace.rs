//! Files that are written beside their name and renamed: a name never stands for half a file.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// How the names of files start that have not got their own yet.
const UNFINISHED: &str = ".backstitch-";

/// A file that is written beside its name and takes it when it is finished.
#[derive(Debug)]
pub(crate) struct Replacement {
    path: PathBuf,
    file: std::io::BufWriter<tempfile::NamedTempFile>,
}

impl Replacement {
    /// Starts the file that shall be called `path`.
    pub(crate) fn create(path: &Path) -> Result<Replacement> {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(UNFINISHED);
        // Temporary files are private by default; results have the permissions of any new file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(write_error(path))?;
        Ok(Replacement {
            path: path.to_owned(),
            file: std::io::BufWriter::new(file),
        })
    }

    /// Appends.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(write_error(&self.path))
    }

    /// For what writes piece by piece; its errors are told by [`write_error`].
    pub(crate) fn writer(&mut self) -> &mut impl Write {
        &mut self.file
    }

    /// Replaces the first bytes.
    pub(crate) fn write_at_start(&mut self, bytes: &[u8]) -> Result<()> {
        let start = self.file.seek(SeekFrom::Start(0));
        start
            .and_then(|_| self.file.write_all(bytes))
            .and_then(|()| self.file.seek(SeekFrom::End(0)))
            .map_err(write_error(&self.path))?;
        Ok(())
    }

    /// Puts the file in its place, on disk.
    pub(crate) fn finish(self) -> Result<()> {
        let path = &self.path;
        let file = self
            .file
            .into_inner()
            .map_err(|error| write_error(path)(error.into_error()))?;
        file.as_file().sync_all().map_err(write_error(path))?;
        file.persist(path)
            .map_err(|error| write_error(path)(error.error))?;
        Ok(())
    }
}

/// Errors of this are told by [`write_error`].
impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Writes a whole file beside its name and renames it.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = Replacement::create(path)?;
    file.write(bytes)?;
    file.finish()
}

/// An error in writing `path`; a full disk gets the way out.
pub(crate) fn write_error(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let path = path.as_ref().to_path_buf();
    move |error| match error.kind() {
        StorageFull | QuotaExceeded => Error::file(path, "the disk is full")
            .hint("finished results are kept: make room and go on with `resume`"),
        _ => Error::io(path)(error),
    }
}

/// The error about an output folder that cannot be created, for `map_err`.
pub(crate) fn not_created(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.as_ref().to_path_buf();
    move |error| Error::file(path, format!("cannot be created: {error}"))
}

/// Removes what a run that was killed had begun to write.
pub(crate) fn remove_unfinished(folder: &Path) {
    for entry in walkdir::WalkDir::new(folder).into_iter().flatten() {
        if entry.file_type().is_file()
            && entry.file_name().to_string_lossy().starts_with(UNFINISHED)
        {
            // It is in nobody's way.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_said_clearly() {
        let path = Path::new("/dev/full");
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .unwrap()
            .write_all(b"x");
        let error = full.map_err(write_error(path)).unwrap_err().to_string();
        assert!(
            error.contains("the disk is full") && error.contains("`resume`"),
            "{error}"
        );
    }

    #[test]
    fn a_replacement_that_is_given_up_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        replace(&path, b"old").unwrap();
        let mut new = Replacement::create(&path).unwrap();
        new.write(b"new").unwrap();
        drop(new);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
