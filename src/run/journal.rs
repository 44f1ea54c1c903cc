//! `results.jsonl`: one line per picture, appended to; reading it again after a crash.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use same_file::Handle;
use xxhash_rust::xxh3::xxh3_128;

use super::line::Line;
use super::tally::Tally;
use crate::error::{Error, Result};
use crate::files::jsonl;
use crate::files::replace::write_error;

/// The journal of a run in progress.
///
/// Methods take `&self`: several threads may append, and one wait for the disk serves all that wait.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// Identifies the file that `path` named when the run began.
    identity: Handle,
    end: Mutex<End>,
    /// Number of lines that are written.
    written: AtomicU64,
    /// Number of lines that are known to be on disk.
    synced: Mutex<u64>,
    file: File,
}

#[derive(Debug)]
struct End {
    length: u64,
    /// Whether an incomplete line could not be removed: then no line may follow it.
    torn: bool,
}

impl Journal {
    /// Opens the journal at its end.
    pub(super) fn open(path: &Path) -> Result<Journal> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(Error::io(path))?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let identity = file.try_clone().and_then(Handle::from_file);
        Ok(Journal {
            path: path.to_owned(),
            identity: identity.map_err(Error::io(path))?,
            end: Mutex::new(End {
                length,
                torn: false,
            }),
            written: AtomicU64::new(0),
            synced: Mutex::new(0),
            file,
        })
    }

    /// Checks that the journal was not moved or removed: lines written to a removed file are lost.
    ///
    /// # Errors
    /// It was moved or removed.
    pub(super) fn check_in_place(&self) -> Result<()> {
        match Handle::from_path(&self.path) {
            Ok(now) if now == self.identity => Ok(()),
            _ => Err(Error::file(
                &self.path,
                "was removed or replaced while the run wrote to it; start the run again",
            )),
        }
    }

    /// Appends `line`, which ends with a newline. If writing fails, removes what was written of it.
    pub(super) fn append(&self, line: &[u8]) -> Result<()> {
        let mut end = self.end.lock().expect("no thread panics with the journal");
        if end.torn {
            let torn = Error::file(&self.path, "could not be written to");
            return Err(torn.hint("continue with `resume`"));
        }
        if let Err(error) = (&self.file).write_all(line) {
            end.torn = self.file.set_len(end.length).is_err();
            return Err(write_error(&self.path)(error));
        }
        end.length += line.len() as u64;
        self.written.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Returns when every line that was appended before this call is on disk.
    pub(super) fn sync(&self) -> Result<()> {
        let wanted = self.written.load(Ordering::Acquire);
        let mut synced = self.synced.lock().expect("no thread panics with the count");
        if *synced < wanted {
            let now = self.written.load(Ordering::Acquire);
            self.file.sync_data().map_err(write_error(&self.path))?;
            *synced = now;
        }
        Ok(())
    }
}

/// What an earlier run in the folder finished.
#[derive(Debug, Default)]
pub(super) struct Finished {
    /// Hashes of the ids of the pictures with results.
    pub ids: HashSet<u128>,
    pub tally: Tally,
}

/// Reads the journal of an earlier run, and removes from it what that run did not finish: a line that a crash
/// cut short, pictures that failed, and pictures for whose output `there` is false.
///
/// # Errors
/// Those of [`jsonl::recover`].
pub(super) fn recover(path: &Path, mut there: impl FnMut(&str) -> bool) -> Result<Finished> {
    let mut finished = Finished::default();
    jsonl::recover(path, |line: Line| {
        let done = line.error.is_none() && line.output.as_deref().is_none_or(&mut there);
        let keep = done && finished.ids.insert(xxh3_128(line.image.as_bytes()));
        if keep {
            finished.tally.add(&line);
        }
        keep
    })?;
    Ok(finished)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a journal of `text` becomes, and the pictures that are finished.
    fn recovered(text: &str) -> (String, usize) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        std::fs::write(&path, text).unwrap();
        let finished = recover(&path, |output| output != "gone").unwrap();
        (std::fs::read_to_string(&path).unwrap(), finished.ids.len())
    }

    #[test]
    fn every_picture_keeps_one_result() {
        let result = |name: &str| format!("{{\"image\":\"{name}\",\"label\":null}}\n");
        let failed = |name: &str| format!("{{\"image\":\"{name}\",\"error\":\"x\"}}\n");
        let (a, b) = (result("a"), result("b"));
        let lost = "{\"image\":\"c\",\"output\":\"gone\"}\n";
        let torn = "{\"image\":\"d\",\"la";
        let both = format!("{a}{b}");
        for (text, left) in [
            (both.clone(), &both),
            (format!("{both}{torn}"), &both),
            (format!("{both}{}", failed("b")), &both),
            (format!("{}{both}", failed("a")), &both),
            (format!("{a}{lost}{b}{torn}"), &both),
            (format!("{a}{a}{b}{a}"), &both),
            (format!("{a}{b}garbage\n"), &both),
            // A picture whose name a crash cut off, but not its line's end.
            (format!("{a}{b}{{\"image\":\"d\"\n"), &both),
        ] {
            assert_eq!(recovered(&text), (left.clone(), 2), "{text}");
        }
        assert_eq!(recovered(""), (String::new(), 0));
        assert_eq!(recovered(torn), (String::new(), 0));
        assert_eq!(recovered(&failed("a")), (String::new(), 0));
        assert_eq!(recovered(&"\0".repeat(4096)), (String::new(), 0));
    }

    #[test]
    fn a_journal_that_is_replaced_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        let journal = Journal::open(&path).unwrap();
        journal.append(b"{}\n").unwrap();
        journal.sync().unwrap();
        journal.check_in_place().unwrap();
        std::fs::remove_file(&path).unwrap();
        for _ in 0..2 {
            let error = journal.check_in_place().unwrap_err().to_string();
            assert!(error.contains("was removed or replaced"), "{error}");
            std::fs::write(&path, "{}\n").unwrap();
        }
    }
}
