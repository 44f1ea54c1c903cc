//! Taking a folder for a run: its lock, and whether a run that it holds is refused, removed or resumed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use super::line::Line;
use super::options::Existing;
use super::pictures::{self, IMAGES};
use super::report::Report;
use super::resume::{self, Changes};
use crate::error::{Error, Result};
use crate::files::replace::{not_created, remove_unfinished};

/// The journal of runs on single pictures.
pub(super) const RESULTS: &str = "results.jsonl";
/// The journal of an evaluation.
pub(crate) const CELLS: &str = "cells.jsonl";
/// An evaluation's folder of attacked pictures.
pub(crate) const ATTACKED: &str = "attacked";

/// What a process holds that writes a folder.
pub(super) const LOCK: &str = ".lock";

/// The page of runs on single pictures.
const REPORT: &str = "report.html";

/// The files of a run, of any command.
pub(super) const FILES: [&str; 8] = [
    "run.json",
    RESULTS,
    REPORT,
    CELLS,
    "evaluation.json",
    "evaluation.md",
    "evaluation.html",
    "attacked.jsonl",
];
/// Those of [`FILES`] that runs on single pictures write.
const OF_PICTURES: std::ops::Range<usize> = 0..3;
/// Those of [`FILES`] that evaluations write beside `run.json`.
const OF_EVALUATIONS: std::ops::Range<usize> = 3..8;

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
    std::fs::create_dir_all(path).map_err(not_created(path))?;
    let mut taken = Taken {
        lock: lock(path)?,
        resumes: false,
        changes: Vec::new(),
    };
    let holds_run = FILES.iter().any(|name| path.join(name).exists());
    if holds_run && existing != Existing::Refuse {
        refuse_strangers(path)?;
    }
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
    let path = folder.join(LOCK);
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

/// Refuses a folder with a file that no run wrote but that a run would replace. What a run wrote is known by its own
/// record: `run.json`, or a journal where that is gone or damaged. Empty files may be replaced.
fn refuse_strangers(folder: &Path) -> Result<()> {
    let journal = |name: &str| -> bool {
        let first = File::open(folder.join(name)).map(|file| BufReader::new(file).lines().next());
        let Ok(Some(Ok(line))) = first else {
            return false;
        };
        serde_json::from_str::<Line>(&line).is_ok()
    };
    let text = std::fs::read(folder.join("run.json")).unwrap_or_default();
    let command = match serde_json::from_slice::<Value>(&text) {
        Ok(run) if run["backstitch"].is_string() => run["command"].as_str().map(str::to_owned),
        Ok(_) => None,
        Err(_) if journal(CELLS) => Some("evaluate".to_owned()),
        Err(_) if journal(RESULTS) => Some("purify".to_owned()),
        Err(_) => None,
    };
    let own = match command.as_deref() {
        Some("evaluate") => OF_EVALUATIONS,
        Some(_) => OF_PICTURES,
        None => 0..0,
    };
    for (i, name) in FILES.into_iter().enumerate() {
        let path = folder.join(name);
        let holds_something = path.metadata().is_ok_and(|file| file.len() > 0);
        let written = own.contains(&i)
            || (i == 0 && command.is_some())
            || (name == REPORT && Report::wrote(&path));
        if holds_something && !written {
            let stranger = "was not written by the run that the folder holds, if any; it stays";
            return Err(
                Error::file(path, stranger).hint("move it away, or give `output` another folder")
            );
        }
    }
    Ok(())
}

/// Removes what a run wrote, and nothing else: the pictures that its journal names, its own files, and
/// folders that this leaves empty.
fn remove_run(folder: &Path) -> Result<()> {
    remove_unfinished(folder);
    remove_pictures(folder, RESULTS, IMAGES)?;
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
