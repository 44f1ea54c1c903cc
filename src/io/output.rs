//! The run folder: output pictures, `results.jsonl`, `run.json`, the report.
//!
//! ```text
//! OUT/images/…       the output pictures, mirroring the input tree
//! OUT/results.jsonl  one object per picture; a journal, appended to
//! OUT/run.json       configuration, versions, device, counts, throughput
//! OUT/report.html    the pictures; appended to
//! OUT/.lock          held while a run writes
//! ```
//!
//! Every other file is written beside its name and renamed, so that no name ever stands for half a
//! file.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_128;

use super::dataset::Dataset;
use super::names::OutputNames;
use super::npy;
use super::picture::write_png;
use super::record::ImageRecord;
use super::replace::{Replacement, remove_unfinished, replace, write_error};
use crate::backend::ImageShape;
use crate::error::{Error, Result};
use crate::report::Report;

/// What may already be in the output folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// No run.
    #[default]
    Refuse,
    /// A run, which is removed first.
    Overwrite,
    /// A run of the same configuration, which goes on.
    Resume,
}

/// The form of output pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SaveFormat {
    /// 8-bit PNG, rounded to nearest.
    #[default]
    Png,
    /// Float32, exact: shape 3 × height × width.
    Npy,
}

impl SaveFormat {
    /// Of its files, without the dot.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            SaveFormat::Png => "png",
            SaveFormat::Npy => "npy",
        }
    }
}

/// How a run folder is made.
#[derive(Clone, Debug)]
pub struct RunOptions {
    pub path: PathBuf,
    pub existing: Existing,
    pub save: SaveFormat,
    /// Whether to write `report.html`.
    pub report: bool,
}

/// What a run is, for `run.json`.
#[derive(Clone, Debug)]
pub struct RunDescription {
    /// The subcommand.
    pub command: &'static str,
    /// Everything that the results depend on: options, the model's hash, the seed. A run resumes only
    /// where this, the subcommand and the version are the same.
    pub configuration: Value,
    /// What else `run.json` says: device, threads, inputs.
    pub more: Map<String, Value>,
}

/// A picture before and after.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    pub shape: ImageShape,
    /// CHW, in `[0, 1]`.
    pub input: &'a [f32],
    /// CHW, in `[0, 1]`.
    pub output: &'a [f32],
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    Running,
    Done,
    /// By the user, or by an error that stopped the whole run.
    Interrupted,
}

/// How many pictures have which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// In the input.
    pub total: usize,
    /// Finished before this run, which resumes.
    pub resumed: usize,
    /// Finished in this run.
    pub done: usize,
    /// Failed in this run.
    pub failed: usize,
}

/// An output folder, held by this process alone.
///
/// Methods take `&self`: several threads may record at once.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    save: SaveFormat,
    names: OutputNames,
    description: RunDescription,
    started: SystemTime,
    clock: Instant,
    /// Ids of pictures that an earlier run finished, hashed.
    finished: HashSet<u128>,
    journal: Mutex<Journal>,
    report: Option<Report>,
    _lock: File,
}

#[derive(Debug)]
struct Journal {
    file: File,
    counts: Counts,
}

/// What resuming and removing read of a result.
#[derive(Deserialize)]
struct Line {
    image: String,
    error: Option<String>,
    #[serde(alias = "saved")]
    output: Option<PathBuf>,
}

impl RunFolder {
    /// Makes, or goes on with, the run folder for `dataset`.
    ///
    /// # Errors
    /// The folder cannot be written, another process writes it, it holds a run and `existing` does not
    /// allow that, or the run to resume is not the same.
    pub fn open(
        options: &RunOptions,
        description: RunDescription,
        dataset: &Dataset,
    ) -> Result<RunFolder> {
        let path = &options.path;
        let lock = take_folder(path, options.existing, RESULTS, &description)?;
        let finished = match options.existing {
            Existing::Resume => {
                remove_unfinished(path);
                read_journal(&path.join(RESULTS))?
            }
            _ => HashSet::new(),
        };
        let journal = path.join(RESULTS);
        let file = OpenOptions::new().create(true).append(true).open(&journal);
        let report = path.join("report.html");
        let report = match options.report {
            true => Some(Report::open(
                &report,
                description.command,
                dataset.classes().cloned(),
            )?),
            false => None,
        };
        let run = RunFolder {
            path: path.clone(),
            save: options.save,
            names: OutputNames::new(
                || dataset.items().map(|item| item.id),
                options.save.extension(),
            ),
            description,
            started: SystemTime::now(),
            clock: Instant::now(),
            journal: Mutex::new(Journal {
                file: file.map_err(Error::io(&journal))?,
                counts: Counts {
                    total: dataset.len(),
                    resumed: finished.len(),
                    ..Counts::default()
                },
            }),
            finished,
            report,
            _lock: lock,
        };
        run.describe(RunState::Running, &Map::new())?;
        Ok(run)
    }

    /// Whether an earlier run finished the picture called `id`.
    pub fn is_finished(&self, id: &str) -> bool {
        self.finished.contains(&xxh3_128(id.as_bytes()))
    }

    /// Pictures by their end, so far.
    pub fn counts(&self) -> Counts {
        self.journal().counts
    }

    /// Records a picture: its output, then the report, then the line of `results.jsonl`. When this
    /// returns, all of it is on disk.
    ///
    /// `pixels` is absent for a picture that failed. The record gets the field `output`, the output
    /// file's path in the run folder.
    ///
    /// # Errors
    /// The disk is full or fails; what was recorded before stays whole.
    pub fn record(&self, mut record: ImageRecord, pixels: Option<Pixels<'_>>) -> Result<()> {
        if let Some(pixels) = pixels {
            let name = Path::new("images").join(self.names.path(&record.image));
            save_picture(
                &self.path.join(&name),
                self.save,
                pixels.shape,
                pixels.output,
            )?;
            record.output = Some(super::names::id_of(&name));
        }
        if let Some(report) = &self.report {
            report.add(&record, pixels)?;
        }
        let path = self.path.join(RESULTS);
        let mut line = serde_json::to_vec(&record).expect("a record is plain data");
        line.push(b'\n');
        let mut journal = self.journal();
        journal.file.write_all(&line).map_err(write_error(&path))?;
        journal.file.sync_data().map_err(write_error(&path))?;
        match record.error {
            Some(_) => journal.counts.failed += 1,
            None => journal.counts.done += 1,
        }
        Ok(())
    }

    /// Ends the run: `run.json` gets its counts, its throughput and `more`.
    pub fn close(self, state: RunState, more: &Map<String, Value>) -> Result<Counts> {
        let counts = self.counts();
        if let Some(report) = &self.report {
            report.total(counts)?;
        }
        self.describe(state, more)?;
        Ok(counts)
    }

    fn journal(&self) -> std::sync::MutexGuard<'_, Journal> {
        self.journal
            .lock()
            .expect("no thread panics with the journal")
    }

    /// Writes `run.json`.
    fn describe(&self, state: RunState, more: &Map<String, Value>) -> Result<()> {
        let counts = self.counts();
        let seconds = self.clock.elapsed().as_secs_f64();
        let started = self
            .started
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        let mut run = json!({
            "backstitch": env!("CARGO_PKG_VERSION"),
            "command": self.description.command,
            "state": state,
            "started": started,
            "seconds": seconds,
            "images": counts,
            "images_per_second": (counts.done + counts.failed) as f64 / seconds.max(1e-9),
            "configuration": self.description.configuration,
        });
        let fields = run.as_object_mut().expect("it is an object");
        fields.extend(self.description.more.clone());
        fields.extend(more.clone());
        let text = serde_json::to_string_pretty(&run).expect("it is plain data") + "\n";
        replace(&self.path.join("run.json"), text.as_bytes())
    }
}

/// Writes a picture's file, with the folders on the way.
pub(crate) fn save_picture(
    path: &Path,
    format: SaveFormat,
    shape: ImageShape,
    pixels: &[f32],
) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(write_error(folder))?;
    let ImageShape {
        channels,
        height,
        width,
    } = shape;
    let mut bytes = Vec::new();
    match format {
        SaveFormat::Png => write_png(&mut bytes, shape, pixels),
        SaveFormat::Npy => npy::write_f32(&mut bytes, &[channels, height, width], pixels),
    }
    .map_err(Error::io(path))?;
    replace(path, &bytes)
}

/// The journal of runs on single pictures.
const RESULTS: &str = "results.jsonl";
/// The files of a run, of any command.
const FILES: [&str; 8] = [
    RESULTS,
    crate::evaluate::CELLS,
    "report.html",
    "evaluation.json",
    "evaluation.md",
    "evaluation.html",
    "attacked.jsonl",
    "run.json",
];

/// Makes a folder for a run whose journal is called `journal`, and takes its lock. What is in it is
/// removed or kept, as `existing` says.
///
/// # Errors
/// The folder cannot be written, another process writes it, it holds a run and `existing` does not
/// allow that, or the run to resume is not the same.
pub(crate) fn take_folder(
    path: &Path,
    existing: Existing,
    journal: &str,
    description: &RunDescription,
) -> Result<File> {
    if path.exists() && !path.is_dir() {
        return Err(Error::file(path, "is a file; -o takes a folder"));
    }
    std::fs::create_dir_all(path).map_err(Error::io(path))?;
    let lock = lock(path)?;
    let holds_run = FILES.iter().any(|name| path.join(name).exists());
    match existing {
        Existing::Refuse if holds_run => {
            return Err(Error::file(
                path,
                "holds another run; continue it with --resume, replace it with --overwrite, or \
                 name another folder",
            ));
        }
        Existing::Overwrite => remove_run(path)?,
        Existing::Resume if holds_run => check_same(path, journal, description)?,
        _ => {}
    }
    Ok(lock)
}

/// Takes the folder's lock.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| Error::file(folder, format!("cannot be written: {error}")))?;
    match fs4::FileExt::try_lock(&file) {
        Ok(()) => Ok(file),
        Err(fs4::TryLockError::WouldBlock) => Err(Error::file(
            folder,
            "is being written by another run; wait for it or name another folder",
        )),
        Err(fs4::TryLockError::Error(error)) => Err(Error::io(path)(error)),
    }
}

/// Removes what a run wrote, and nothing else: the pictures that its journal names, its own files, and
/// folders that this leaves empty.
fn remove_run(folder: &Path) -> Result<()> {
    remove_unfinished(folder);
    remove_pictures(folder, RESULTS, "images")?;
    remove_pictures(folder, crate::evaluate::CELLS, crate::evaluate::ATTACKED)?;
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
            let inside = output.starts_with(pictures)
                && output
                    .components()
                    .all(|part| matches!(part, Component::Normal(_)));
            if inside {
                remove_file(&folder.join(output))?;
            }
        }
    }
    for entry in walkdir::WalkDir::new(folder.join(pictures))
        .contents_first(true)
        .into_iter()
        .flatten()
    {
        if entry.file_type().is_dir() {
            // Fails where something is left in it, which is the point.
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

/// Refuses to resume a run that would have given other results.
fn check_same(folder: &Path, journal: &str, description: &RunDescription) -> Result<()> {
    let path = folder.join("run.json");
    let text = match std::fs::read_to_string(&path) {
        // A run that was killed before it began.
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound && is_empty(&folder.join(journal)) =>
        {
            return Ok(());
        }
        text => text.map_err(Error::io(&path))?,
    };
    let run: Value = serde_json::from_str(&text)
        .map_err(|error| Error::file(&path, format!("is damaged: {error}; use --overwrite")))?;
    let now = json!({
        "backstitch": env!("CARGO_PKG_VERSION"),
        "command": description.command,
        "configuration": description.configuration,
    });
    // As a file would give it back: numbers may change in their last bit on the way.
    let now: Value = serde_json::from_str(&now.to_string()).expect("it was just written");
    for (key, now) in now.as_object().expect("it is an object") {
        if let Some(difference) = difference(key, &run[key], now) {
            return Err(Error::file(
                folder,
                format!("cannot be resumed: {difference}; use the same options, or --overwrite"),
            ));
        }
    }
    Ok(())
}

/// Whether a journal has no line.
fn is_empty(journal: &Path) -> bool {
    std::fs::metadata(journal).is_ok_and(|journal| journal.len() == 0)
}

/// The first value in which two configurations differ.
fn difference(name: &str, old: &Value, new: &Value) -> Option<String> {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.into_iter().find_map(|key| {
                let value = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                difference(key, &value(a), &value(b))
            })
        }
        _ if old == new => None,
        _ => Some(format!("{name} was {old} and is {new}")),
    }
}

/// The finished pictures of a journal. What a crash tore is cut off; failed pictures are taken out, to
/// be tried again.
fn read_journal(path: &Path) -> Result<HashSet<u128>> {
    let mut finished = HashSet::new();
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(finished),
        file => file.map_err(Error::io(path))?,
    };
    let mut kept = Replacement::create(path)?;
    let mut dropped = false;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader
            .read_until(b'\n', &mut line)
            .map_err(Error::io(path))?
            == 0
        {
            break;
        }
        let whole = line.ends_with(b"\n");
        match serde_json::from_slice::<Line>(&line) {
            Ok(result) if whole && result.error.is_none() => {
                finished.insert(xxh3_128(result.image.as_bytes()));
                kept.write(&line)?;
            }
            Ok(_) => dropped = true,
            Err(_) if !whole || reader.fill_buf().map_err(Error::io(path))?.is_empty() => {
                dropped = true
            }
            Err(error) => {
                return Err(Error::file(
                    path,
                    format!("line {number} is damaged: {error}; start anew with --overwrite"),
                ));
            }
        }
    }
    if dropped {
        kept.finish()?;
    }
    Ok(finished)
}

#[cfg(test)]
mod tests;
