//! The run folder: records each picture in an order that a crash cannot break.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_128;

use super::claim::{RESULTS, Taken, take_folder};
use super::journal::{self, Finished, Journal};
use super::metrics::Exporter;
use super::names::{Form, OutputNames};
use super::options::{ResultsCopy, RunDescription, RunOptions, RunState, SaveFormat};
use super::pictures::{self, IMAGES, TarWriter};
use super::record::{ImageRecord, Pixels};
use super::report::{Report, Trajectories};
use super::resume::identity;
use super::status::{Counts, Phase, Status};
use crate::error::{Error, Result};
use crate::files::replace::replace;
use crate::input::names::id_of;
use crate::input::{Dataset, Item, npy};
use crate::picture::{ImageShape, write_png};

/// A run folder, locked by this process.
///
/// Methods take `&self`: several threads may record at once.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    save: SaveFormat,
    names: OutputNames,
    description: RunDescription,
    /// What a resumed run must have in common with the first.
    identity: Value,
    /// What resumed runs in this folder changed although.
    changes: Vec<Value>,
    started: SystemTime,
    /// Whether an earlier run may have left pictures that none of its results names.
    resumes: bool,
    finished: Finished,
    status: Arc<Status>,
    journal: Journal,
    /// Writes output pictures to tar files; `None` if each picture is a file.
    tars: Option<Mutex<TarWriter>>,
    report: Option<Report>,
    copy: Option<Mutex<ResultsCopy>>,
    exporter: Option<Exporter>,
    _lock: File,
}

impl RunFolder {
    /// Starts or resumes the run for `dataset` in its folder.
    ///
    /// # Errors
    /// The folder cannot be written, another process writes it, it holds a run and `existing` does not
    /// allow that, or the run to resume has another configuration.
    pub fn open(
        options: RunOptions,
        mut description: RunDescription,
        dataset: &Dataset,
    ) -> Result<RunFolder> {
        let skipped = dataset.skipped();
        if !skipped.is_empty() {
            description.more.insert("skipped".into(), skipped.into());
        }
        let path = &options.path;
        let output = json!({ "save": options.save, "tar": options.tar.is_some() });
        let identity = identity(&description, output, json!(dataset.shard()));
        let Taken {
            lock,
            resumes,
            changes,
        } = take_folder(path, options.existing, RESULTS, &identity)?;
        let there = |output: &str| pictures::file_of(path, output).is_some();
        let finished = match resumes {
            true => journal::recover(&path.join(RESULTS), |output| {
                options.tar.is_none() || there(output)
            })?,
            false => Finished::default(),
        };
        let form = Form {
            extension: options.save.extension(),
            key: options.tar.is_some(),
        };
        let names = match dataset.as_stream() {
            Some(_) => OutputNames::of_stream(form),
            None => OutputNames::new(|| dataset.ids_of_all_shards(), form),
        };
        let images = path.join(IMAGES);
        if !resumes && options.tar.is_none() && images.is_dir() {
            for index in 0..dataset.len() {
                refuse_stranger(&images.join(names.path(&dataset.id(index))))?;
            }
        }
        let report = path.join("report.html");
        let report = match options.report {
            true => Some(Report::open(
                &report,
                description.command,
                dataset.classes().cloned(),
            )?),
            false => None,
        };
        let tars = options
            .tar
            .map(|size| TarWriter::new(path, size, dataset.shard()));
        let resumed = match dataset.as_stream() {
            None if !finished.ids.is_empty() => (0..dataset.len())
                .filter(|&index| finished.has(&dataset.id(index)))
                .count(),
            _ => finished.ids.len(),
        };
        let status = Arc::new(Status::new(
            description.command,
            dataset.shard(),
            dataset.as_stream().is_none().then(|| dataset.len()),
            resumed,
            finished.tally,
        ));
        let exporter = options
            .metrics
            .map(|path| Exporter::start(path, status.clone()));
        let run = RunFolder {
            save: options.save,
            names,
            description,
            identity,
            changes,
            started: SystemTime::now(),
            resumes,
            finished,
            status,
            journal: Journal::open(&path.join(RESULTS))?,
            tars: tars.transpose()?.map(Mutex::new),
            report,
            copy: options.copy.map(Mutex::new),
            exporter: exporter.transpose()?,
            _lock: lock,
            path: options.path,
        };
        run.describe(RunState::Running, &Map::new())?;
        Ok(run)
    }

    /// Whether an earlier run finished the picture called `id`.
    pub fn is_finished(&self, id: &str) -> bool {
        self.finished.has(id)
    }

    /// The pictures of `dataset` that are not finished, in order.
    pub fn unfinished<'a>(
        &'a self,
        dataset: &'a Dataset,
    ) -> impl Iterator<Item = Item> + Send + 'a {
        dataset.items_where(|id| !self.is_finished(id))
    }

    /// The run's progress.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// How many pictures are finished, failed or resumed so far.
    pub fn counts(&self) -> Counts {
        self.status.counts()
    }

    /// Records a picture: its output, then its entry in the report, then its line of `results.jsonl`. When this
    /// returns, all of it is on disk. A picture in a tar file is on disk only when the tar file is complete; a
    /// run that resumes before that makes the picture again.
    ///
    /// `pixels` is `None` for a picture that failed. The record gets the field `output`, the output file's path
    /// in the run folder.
    ///
    /// # Errors
    /// The disk is full or fails, or the folder was removed; pictures recorded before stay whole.
    pub fn record(&self, record: ImageRecord, pixels: Option<Pixels<'_>>) -> Result<()> {
        self.record_with(record, pixels, None)
    }

    /// Records a picture like [`record`](Self::record), with trajectories for the report.
    pub fn record_with(
        &self,
        mut record: ImageRecord,
        pixels: Option<Pixels<'_>>,
        trajectories: Option<&Trajectories>,
    ) -> Result<()> {
        let status = &self.status;
        status.time(Phase::Write, || self.journal.check_in_place())?;
        let name = self.names.path(&record.image);
        let encoded = pixels.map(|pixels| {
            status.time(Phase::Encode, || {
                encode(self.save, pixels.shape, pixels.output)
            })
        });
        let encoded = encoded.transpose().map_err(Error::io(&name))?;
        match (&self.tars, encoded) {
            (Some(writer), Some(bytes)) => {
                // Locked until the line is written, so that every picture of a complete tar file has a line.
                let mut writer = writer.lock().expect("no thread panics with the shard");
                let added = || writer.add(&name, &bytes, record.label);
                record.output = Some(status.time(Phase::Write, added)?);
                self.tell(&record, pixels, trajectories)
                    .inspect_err(|_| writer.give_up())?;
                if writer.is_full() {
                    status.time(Phase::Write, || self.finish_shard(&mut writer))?;
                }
            }
            (None, Some(bytes)) => {
                let name = Path::new(IMAGES).join(&name);
                if !self.resumes {
                    refuse_stranger(&self.path.join(&name))?;
                }
                let write = || pictures::write_file(&self.path, &name, &bytes);
                status.time(Phase::Write, write)?;
                record.output = Some(id_of(&name));
                self.tell(&record, pixels, trajectories)?;
                status.time(Phase::Write, || self.journal.sync())?;
            }
            (_, None) => {
                self.tell(&record, None, None)?;
                status.time(Phase::Write, || self.journal.sync())?;
            }
        }
        status.add(&record);
        Ok(())
    }

    /// Adds a picture to the report, the journal and its copy.
    fn tell(
        &self,
        record: &ImageRecord,
        pixels: Option<Pixels<'_>>,
        trajectories: Option<&Trajectories>,
    ) -> Result<()> {
        if let Some(report) = &self.report {
            let add = || report.add(record, pixels, trajectories);
            self.status.time(Phase::Encode, add)?;
        }
        let mut line = serde_json::to_vec(record).expect("a record is plain data");
        line.push(b'\n');
        let append = || self.journal.append(&line);
        self.status.time(Phase::Write, append)?;
        match &self.copy {
            Some(copy) => copy
                .lock()
                .expect("no thread panics with the copy")
                .write(&line),
            None => Ok(()),
        }
    }

    /// Completes a tar file. Its pictures' lines are on disk before the tar file gets its name, so that a
    /// complete tar file's pictures are never made again.
    fn finish_shard(&self, writer: &mut TarWriter) -> Result<()> {
        self.journal.sync()?;
        writer.finish()
    }

    /// Ends the run: writes the counts, the throughput and `more` to `run.json`.
    pub fn close(mut self, state: RunState, more: &Map<String, Value>) -> Result<Counts> {
        self.journal.check_in_place()?;
        if let Some(writer) = &self.tars {
            let mut writer = writer.lock().expect("no thread panics with the shard");
            let finish = || self.finish_shard(&mut writer);
            self.status.time(Phase::Write, finish)?;
        }
        let counts = self.counts();
        if let Some(report) = &self.report {
            report.total(counts)?;
        }
        self.describe(state, more)?;
        if let Some(exporter) = self.exporter.take() {
            exporter.finish(state)?;
        }
        Ok(counts)
    }

    /// Writes `run.json`.
    fn describe(&self, state: RunState, more: &Map<String, Value>) -> Result<()> {
        let started = self.started.duration_since(UNIX_EPOCH);
        let mut run = json!({
            "backstitch": self.identity["backstitch"],
            "command": self.identity["command"],
            "state": state,
            "started": started.map_or(0, |time| time.as_secs()),
            "seconds": self.status.elapsed().as_secs_f64(),
            "images": self.counts(),
            "images_per_second": self.status.rate(),
        });
        let fields = run.as_object_mut().expect("it is an object");
        fields.extend(self.status.describe());
        for key in ["configuration", "output", "shard"] {
            fields.insert(key.into(), self.identity[key].clone());
        }
        if !self.changes.is_empty() {
            fields.insert("changes".into(), self.changes.clone().into());
        }
        fields.extend(self.description.more.clone());
        fields.extend(more.clone());
        let text = serde_json::to_string_pretty(&run).expect("it is plain data") + "\n";
        replace(&self.path.join("run.json"), text.as_bytes())
    }
}

impl Finished {
    fn has(&self, id: &str) -> bool {
        self.ids.contains(&xxh3_128(id.as_bytes()))
    }
}

/// Refuses to replace a picture unless the run is resumed.
pub(crate) fn refuse_stranger(picture: &Path) -> Result<()> {
    match picture.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(_) => Err(Error::file(
            picture,
            "is there already, and no run that the folder holds wrote it",
        )
        .hint("move it away, or give `output` another folder")),
    }
}

/// A picture file's bytes; `pixels` are CHW in `[0, 1]`.
fn encode(format: SaveFormat, shape: ImageShape, pixels: &[f32]) -> std::io::Result<Vec<u8>> {
    let ImageShape {
        channels,
        height,
        width,
    } = shape;
    let mut bytes = Vec::new();
    match format {
        SaveFormat::Png => write_png(&mut bytes, shape, pixels)?,
        SaveFormat::Npy => npy::write_f32(&mut bytes, &[channels, height, width], pixels)?,
    }
    Ok(bytes)
}

/// Writes a picture to the file `name` of a run folder, and makes the folders of that path.
pub(crate) fn save_picture(
    run: &Path,
    name: &Path,
    format: SaveFormat,
    shape: ImageShape,
    pixels: &[f32],
) -> Result<()> {
    let bytes = encode(format, shape, pixels).map_err(Error::io(name))?;
    pictures::write_file(run, name, &bytes)
}
