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
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
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
    fn extension(self) -> &'static str {
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

/// What resuming reads of a result.
#[derive(Deserialize)]
struct Line {
    image: String,
    error: Option<String>,
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
        if path.exists() && !path.is_dir() {
            return Err(Error::file(path, "is a file; -o takes a folder"));
        }
        std::fs::create_dir_all(path).map_err(Error::io(path))?;
        let lock = lock(path)?;
        let holds_run = ["run.json", "results.jsonl", "report.html"]
            .iter()
            .any(|name| path.join(name).exists());
        let mut finished = HashSet::new();
        match options.existing {
            Existing::Refuse if holds_run => {
                return Err(Error::file(
                    path,
                    "holds another run; continue it with --resume, replace it with --overwrite, or \
                     name another folder",
                ));
            }
            Existing::Overwrite => remove_run(path)?,
            Existing::Resume if holds_run => {
                check_same(path, &description)?;
                remove_unfinished(path);
                finished = read_journal(&path.join("results.jsonl"))?;
            }
            _ => {}
        }
        let journal = path.join("results.jsonl");
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
            self.save(&self.path.join(&name), pixels)?;
            record.output = Some(super::names::id_of(&name));
        }
        if let Some(report) = &self.report {
            report.add(&record, pixels)?;
        }
        let path = self.path.join("results.jsonl");
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

    fn save(&self, path: &Path, pixels: Pixels<'_>) -> Result<()> {
        let folder = path.parent().expect("it is in images/");
        std::fs::create_dir_all(folder).map_err(write_error(folder))?;
        let ImageShape {
            channels,
            height,
            width,
        } = pixels.shape;
        let mut bytes = Vec::new();
        match self.save {
            SaveFormat::Png => write_png(&mut bytes, pixels.shape, pixels.output),
            SaveFormat::Npy => {
                npy::write_f32(&mut bytes, &[channels, height, width], pixels.output)
            }
        }
        .map_err(Error::io(path))?;
        replace(path, &bytes)
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

/// Removes what a run wrote, and nothing else: the outputs that its results name, its own files, and
/// folders that this leaves empty.
fn remove_run(folder: &Path) -> Result<()> {
    remove_unfinished(folder);
    let journal = folder.join("results.jsonl");
    let images = folder.join("images");
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
            let inside = output.starts_with("images")
                && output
                    .components()
                    .all(|part| matches!(part, Component::Normal(_)));
            if inside {
                remove_file(&folder.join(output))?;
            }
        }
    }
    for entry in walkdir::WalkDir::new(&images)
        .contents_first(true)
        .into_iter()
        .flatten()
    {
        if entry.file_type().is_dir() {
            // Fails where something is left in it, which is the point.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
    for name in ["results.jsonl", "report.html", "run.json"] {
        remove_file(&folder.join(name))?;
    }
    Ok(())
}

/// Removes what a run that was killed had begun to write.
fn remove_unfinished(folder: &Path) {
    for entry in walkdir::WalkDir::new(folder).into_iter().flatten() {
        if entry.file_type().is_file()
            && entry.file_name().to_string_lossy().starts_with(UNFINISHED)
        {
            // It is in nobody's way.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}

/// Refuses to resume a run that would have given other results.
fn check_same(folder: &Path, description: &RunDescription) -> Result<()> {
    let path = folder.join("run.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
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

/// How the names of files start that have not got their own yet.
const UNFINISHED: &str = ".backstitch-";

/// A file that is written beside its name and takes it when it is finished.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    file: std::io::BufWriter<tempfile::NamedTempFile>,
}

impl Replacement {
    /// Starts the file that shall be called `path`.
    pub fn create(path: &Path) -> Result<Replacement> {
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
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(write_error(&self.path))
    }

    /// Replaces the first bytes.
    pub fn write_at_start(&mut self, bytes: &[u8]) -> Result<()> {
        let start = self.file.seek(SeekFrom::Start(0));
        start
            .and_then(|_| self.file.write_all(bytes))
            .and_then(|()| self.file.seek(SeekFrom::End(0)))
            .map_err(write_error(&self.path))?;
        Ok(())
    }

    /// Puts the file in its place, on disk.
    pub fn finish(self) -> Result<()> {
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

/// Writes a whole file beside its name and renames it.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = Replacement::create(path)?;
    file.write(bytes)?;
    file.finish()
}

/// An error in writing `path`; a full disk gets the way out.
pub fn write_error(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let path = path.as_ref().to_path_buf();
    move |error| match error.kind() {
        StorageFull | QuotaExceeded => Error::file(
            path,
            "the disk is full; finished results are kept: make room and go on with --resume",
        ),
        _ => Error::io(path)(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::picture::{Picture, rgb};
    use crate::io::record::Verdict;

    /// A folder `in` with three pictures, and one beside it for a run.
    struct Fixture {
        folder: tempfile::TempDir,
        dataset: Dataset,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let inputs = folder.path().join("in");
        std::fs::create_dir_all(inputs.join("n1")).unwrap();
        for name in ["a.png", "n1/b.png", "n1/c.png"] {
            let mut png = Vec::new();
            write_png(&mut png, rgb(2, 2), &[0.2; 12]).unwrap();
            std::fs::write(inputs.join(name), png).unwrap();
        }
        let dataset = Dataset::open(&[inputs], None, None).unwrap();
        Fixture { folder, dataset }
    }

    impl Fixture {
        fn out(&self) -> PathBuf {
            self.folder.path().join("out")
        }

        fn open(&self, existing: Existing) -> Result<RunFolder> {
            self.open_with(
                existing,
                json!({"seed": 1, "eps": 4.0 / 255.0}),
                SaveFormat::Png,
            )
        }

        fn open_with(
            &self,
            existing: Existing,
            configuration: Value,
            save: SaveFormat,
        ) -> Result<RunFolder> {
            let options = RunOptions {
                path: self.out(),
                existing,
                save,
                report: true,
            };
            let description = RunDescription {
                command: "purify",
                configuration,
                more: Map::new(),
            };
            RunFolder::open(&options, description, &self.dataset)
        }

        /// Records picture `index`, its output flat.
        fn record(&self, run: &RunFolder, index: usize, level: f32) {
            let item = self.dataset.item(index);
            let record = ImageRecord {
                verdict: Some(Verdict::Clean),
                ..ImageRecord::of(&item)
            };
            let pixels = Pixels {
                shape: rgb(2, 2),
                input: &[0.2; 12],
                output: &[level; 12],
            };
            run.record(record, Some(pixels)).unwrap();
        }

        fn fail(&self, run: &RunFolder, index: usize) {
            let error = Error::invalid("damaged");
            let record = ImageRecord::failed(&self.dataset.item(index), &error);
            run.record(record, None).unwrap();
        }

        fn results(&self) -> Vec<Value> {
            let text = std::fs::read_to_string(self.out().join("results.jsonl")).unwrap();
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        }

        fn run_json(&self) -> Value {
            let text = std::fs::read_to_string(self.out().join("run.json")).unwrap();
            serde_json::from_str(&text).unwrap()
        }

        /// Files and folders of the run folder.
        fn files(&self) -> Vec<String> {
            let walk = walkdir::WalkDir::new(self.out())
                .min_depth(1)
                .sort_by_file_name();
            walk.into_iter()
                .map(|entry| {
                    super::super::names::id_of(
                        entry.unwrap().path().strip_prefix(self.out()).unwrap(),
                    )
                })
                .collect()
        }
    }

    #[test]
    fn a_run_leaves_pictures_results_and_a_description() {
        let fixture = fixture();
        let run = fixture.open(Existing::Refuse).unwrap();
        assert_eq!(fixture.run_json()["state"], "running");
        fixture.record(&run, 0, 0.4);
        // On disk before the next picture.
        assert_eq!(fixture.results().len(), 1);
        fixture.record(&run, 1, 0.7);
        fixture.fail(&run, 2);
        let more = json!({"device": "cpu"}).as_object().unwrap().clone();
        let counts = run.close(RunState::Done, &more).unwrap();
        assert_eq!(
            counts,
            Counts {
                total: 3,
                resumed: 0,
                done: 2,
                failed: 1
            }
        );
        assert_eq!(
            fixture.files(),
            [
                ".lock",
                "images",
                "images/a.png",
                "images/n1",
                "images/n1/b.png",
                "report.html",
                "results.jsonl",
                "run.json"
            ]
        );
        let picture = Picture::open(&fixture.out().join("images/n1/b.png")).unwrap();
        assert_eq!(picture.to_rgb8(), [179; 12]);
        let results = fixture.results();
        assert_eq!(results[1]["image"], "n1/b.png");
        assert_eq!(results[1]["output"], "images/n1/b.png");
        assert_eq!(results[2]["error"], "damaged");
        assert_eq!(results[2].get("output"), None);
        let run = fixture.run_json();
        assert_eq!(run["state"], "done");
        assert_eq!(run["device"], "cpu");
        assert_eq!(run["images"]["failed"], 1);
        assert_eq!(run["configuration"]["seed"], 1);
    }

    #[test]
    fn npy_output_is_exact() {
        let fixture = fixture();
        let run = fixture
            .open_with(Existing::Refuse, json!({}), SaveFormat::Npy)
            .unwrap();
        fixture.record(&run, 0, 0.123_456_79);
        let array =
            crate::io::arrays::ArrayFile::open_npy(&fixture.out().join("images/a.npy"), None);
        assert_eq!(array.unwrap().load(0).unwrap().pixels, [0.123_456_79; 12]);
    }

    #[test]
    fn another_run_is_refused() {
        let fixture = fixture();
        let run = fixture.open(Existing::Refuse).unwrap();
        // While it runs, nobody else may write there, whatever they ask for.
        for existing in [Existing::Refuse, Existing::Overwrite, Existing::Resume] {
            let error = fixture.open(existing).unwrap_err().to_string();
            assert!(error.contains("is being written by another run"), "{error}");
        }
        run.close(RunState::Done, &Map::new()).unwrap();
        let error = fixture.open(Existing::Refuse).unwrap_err().to_string();
        assert!(
            error.contains("--resume") && error.contains("--overwrite"),
            "{error}"
        );
    }

    #[test]
    fn an_output_that_is_no_folder_is_refused() {
        let fixture = fixture();
        std::fs::write(fixture.out(), "text").unwrap();
        let error = fixture.open(Existing::Overwrite).unwrap_err().to_string();
        assert!(error.contains("is a file"), "{error}");
        assert_eq!(std::fs::read_to_string(fixture.out()).unwrap(), "text");
    }

    #[test]
    fn overwriting_removes_what_a_run_wrote_and_nothing_else() {
        let fixture = fixture();
        let run = fixture.open(Existing::Refuse).unwrap();
        fixture.record(&run, 0, 0.4);
        fixture.record(&run, 1, 0.4);
        drop(run);
        let results = fixture.out().join("results.jsonl");
        let outside = fixture.folder.path().join("in/a.png");
        let mut text = std::fs::read_to_string(&results).unwrap();
        text += "{\"image\": \"x\", \"output\": \"images/../../in/a.png\"}\n";
        std::fs::write(&results, text).unwrap();
        std::fs::write(fixture.out().join("images/mine.txt"), "mine").unwrap();
        std::fs::write(fixture.out().join("images/.backstitch-abc"), "torn").unwrap();
        let run = fixture.open(Existing::Overwrite).unwrap();
        assert_eq!(
            fixture.files(),
            [
                ".lock",
                "images",
                "images/mine.txt",
                "report.html",
                "results.jsonl",
                "run.json"
            ]
        );
        assert!(outside.exists());
        assert!(fixture.results().is_empty());
        assert_eq!(run.counts().resumed, 0);
    }

    #[test]
    fn resuming_skips_what_is_finished_and_tries_again_what_failed() {
        let fixture = fixture();
        let run = fixture.open(Existing::Refuse).unwrap();
        fixture.record(&run, 0, 0.4);
        fixture.fail(&run, 1);
        drop(run);
        // A crash tears the last line.
        let results = fixture.out().join("results.jsonl");
        let mut text = std::fs::read_to_string(&results).unwrap();
        text += "{\"image\": \"n1/c.png\", \"lab";
        std::fs::write(&results, text).unwrap();

        let run = fixture.open(Existing::Resume).unwrap();
        let finished: Vec<bool> = fixture
            .dataset
            .items()
            .map(|item| run.is_finished(&item.id))
            .collect();
        assert_eq!(finished, [true, false, false]);
        assert_eq!(fixture.results().len(), 1);
        fixture.record(&run, 1, 0.5);
        fixture.record(&run, 2, 0.6);
        let counts = run.close(RunState::Done, &Map::new()).unwrap();
        assert_eq!(
            counts,
            Counts {
                total: 3,
                resumed: 1,
                done: 2,
                failed: 0
            }
        );
        let images: Vec<Value> = fixture
            .results()
            .iter()
            .map(|r| r["image"].clone())
            .collect();
        assert_eq!(images, ["a.png", "n1/b.png", "n1/c.png"]);
    }

    #[test]
    fn resuming_needs_the_same_configuration() {
        let fixture = fixture();
        drop(fixture.open(Existing::Refuse).unwrap());
        assert!(fixture.open(Existing::Resume).is_ok());
        let other = json!({"seed": 2, "eps": 4.0 / 255.0});
        let error = fixture
            .open_with(Existing::Resume, other, SaveFormat::Png)
            .unwrap_err()
            .to_string();
        assert!(error.contains("seed was 1 and is 2"), "{error}");
        let path = fixture.out().join("run.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let version = format!("\"backstitch\": \"{}\"", env!("CARGO_PKG_VERSION"));
        std::fs::write(&path, text.replace(&version, "\"backstitch\": \"0.0.1\"")).unwrap();
        let error = fixture.open(Existing::Resume).unwrap_err().to_string();
        assert!(error.contains("backstitch was \"0.0.1\""), "{error}");
    }

    #[test]
    fn a_journal_damaged_in_the_middle_is_not_resumed() {
        let fixture = fixture();
        drop(fixture.open(Existing::Refuse).unwrap());
        let results = fixture.out().join("results.jsonl");
        std::fs::write(&results, "garbage\n{\"image\": \"a.png\"}\n").unwrap();
        let error = fixture.open(Existing::Resume).unwrap_err().to_string();
        assert!(error.contains("line 1 is damaged"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_said_clearly() {
        let path = Path::new("/dev/full");
        let full = OpenOptions::new()
            .write(true)
            .open(path)
            .unwrap()
            .write_all(b"x");
        let error = full.map_err(write_error(path)).unwrap_err().to_string();
        assert!(
            error.contains("the disk is full") && error.contains("--resume"),
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
