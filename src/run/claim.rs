//! Taking a folder for a run: its lock, and whether a run that it holds is refused, removed or resumed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use super::line::Line;
use super::options::Existing;
use super::pictures;
use super::resume::{self, Changes};
use crate::error::{Error, Result};
use crate::files::replace::remove_unfinished;

/// The journal of runs on single pictures.
pub(super) const RESULTS: &str = "results.jsonl";
/// The journal of an evaluation.
pub(crate) const CELLS: &str = "cells.jsonl";
/// An evaluation's folder of attacked pictures.
pub(crate) const ATTACKED: &str = "attacked";

/// The files of a run, of any command.
const FILES: [&str; 8] = [
    RESULTS,
    CELLS,
    "report.html",
    "evaluation.json",
    "evaluation.md",
    "evaluation.html",
    "attacked.jsonl",
    "run.json",
];

/// A folder that this process has locked.
pub(crate) struct Taken {
    /// The lock, held until this is dropped.
    pub lock: File,
    /// Whether the run in the folder is resumed.
    pub resumes: bool,
    /// What was changed since the run began.
    pub changes: Vec<Value>,
}

/// Makes a folder for a run whose journal is called `journal`, and takes its lock. `existing` says whether a
/// run in the folder is refused, removed or resumed.
///
/// # Errors
/// The folder cannot be written, another process writes it, it holds a run and `existing` does not
/// allow that, or the run to resume has another `identity`.
pub(crate) fn take_folder(
    path: &Path,
    existing: Existing,
    journal: &str,
    identity: &Value,
) -> Result<Taken> {
    if path.exists() && !path.is_dir() {
        return Err(Error::file(path, "is a file; -o takes a folder"));
    }
    std::fs::create_dir_all(path).map_err(Error::io(path))?;
    let mut taken = Taken {
        lock: lock(path)?,
        resumes: false,
        changes: Vec::new(),
    };
    let holds_run = FILES.iter().any(|name| path.join(name).exists());
    match existing {
        Existing::Refuse if holds_run => {
            return Err(Error::file(path, "holds another run").hint(
                "continue it with `resume`, replace it with `overwrite`, or name another folder",
            ));
        }
        Existing::Overwrite => remove_run(path)?,
        existing @ (Existing::Resume | Existing::ResumeChanged) if holds_run => {
            let Changes { now, before } = resume::compare(path, journal, identity)?;
            if let (Existing::Resume, Some(change)) = (existing, now.first()) {
                // Evaluations cannot be resumed with changes.
                let allowed = match journal {
                    RESULTS => " `allow_changes`,",
                    _ => "",
                };
                return Err(Error::file(path, format!("cannot be resumed: {change}"))
                    .hint(format!("use the same options,{allowed} or `overwrite`")));
            }
            taken.changes = before;
            taken.changes.extend(now.into_iter().map(Value::from));
            remove_unfinished(path);
            taken.resumes = true;
        }
        _ => {}
    }
    Ok(taken)
}

/// Takes the folder's lock.
pub(super) fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| Error::file(folder, format!("cannot be written: {error}")))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::file(
            folder,
            "is being written by another run; wait for it or name another folder",
        )),
        Err(TryLockError::Error(error)) => Err(Error::io(path)(error)),
    }
}

/// Removes only what a run wrote: the pictures that its journal names, the run's own files, and the folders
/// that are empty then.
fn remove_run(folder: &Path) -> Result<()> {
    remove_unfinished(folder);
    remove_pictures(folder, RESULTS, "images")?;
    remove_pictures(folder, CELLS, ATTACKED)?;
    for name in FILES {
        remove_file(&folder.join(name))?;
    }
    Ok(())
}

/// Removes the pictures in the run's folder `pictures` that a journal names.
fn remove_pictures(folder: &Path, journal: &str, pictures: &str) -> Result<()> {
    let journal = folder.join(journal);
    if let Ok(file) = File::open(&journal) {
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(Error::io(&journal))?;
            let Ok(Line {
                output: Some(output),
                ..
            }) = serde_json::from_slice(&line)
            else {
                continue;
            };
            if let Some(file) = pictures::file_in(folder, pictures, &output) {
                remove_file(&folder.join(file))?;
            }
        }
    }
    for entry in walkdir::WalkDir::new(folder.join(pictures))
        .contents_first(true)
        .into_iter()
        .flatten()
    {
        if entry.file_type().is_dir() {
            // Fails if the folder is not empty, which is intended.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}
