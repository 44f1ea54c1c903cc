//! Options of a run folder, and the description of its run.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::pictures::TarSize;
use crate::error::Result;
use crate::files::replace::write_error;

/// What may already be in the run folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// No run: a folder with a run is refused.
    #[default]
    Refuse,
    /// A run, which is removed first.
    Overwrite,
    /// A run of the same configuration, which is resumed.
    Resume,
    /// A run of any configuration, which is resumed; `run.json` records what was changed.
    ResumeChanged,
}

/// The file format of output pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum SaveFormat {
    /// 8-bit PNG, rounded to nearest.
    #[default]
    Png,
    /// Float32, exact: shape 3 × height × width.
    Npy,
}

impl SaveFormat {
    pub(crate) fn extension(self) -> &'static str {
        match self {
            SaveFormat::Png => "png",
            SaveFormat::Npy => "npy",
        }
    }
}

/// Options of a run folder.
#[derive(Debug, Default)]
pub struct RunOptions {
    /// The run folder.
    pub path: PathBuf,
    /// What to do if the folder holds a run.
    pub existing: Existing,
    /// Format of the output pictures.
    pub save: SaveFormat,
    /// Size of the tar files for output pictures; `None` for a file for each picture.
    pub tar: Option<TarSize>,
    /// Whether to write `report.html`.
    pub report: bool,
    /// The file that tells a monitoring system the run's progress.
    pub metrics: Option<PathBuf>,
    /// A second place for the lines of this run's results.
    pub copy: Option<ResultsCopy>,
}

/// A second place for a run's results: each line is written as soon as it is known.
pub struct ResultsCopy {
    /// The name of the place, for error messages.
    pub name: PathBuf,
    /// What the lines are written to.
    pub out: Box<dyn Write + Send>,
}

impl ResultsCopy {
    /// Writes and flushes a line, which ends with a newline.
    ///
    /// # Errors
    /// The line cannot be written.
    pub fn write(&mut self, line: &[u8]) -> Result<()> {
        let written = self.out.write_all(line).and_then(|()| self.out.flush());
        written.map_err(write_error(&self.name))
    }
}

impl std::fmt::Debug for ResultsCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.name.fmt(f)
    }
}

/// The description of a run, for `run.json`.
#[derive(Clone, Debug)]
pub struct RunDescription {
    /// The subcommand.
    pub command: &'static str,
    /// Everything that the results depend on: options, the model's hash, the seed. A run resumes only if this,
    /// the subcommand and the version are the same.
    pub configuration: Value,
    /// Other fields of `run.json`: device, threads, inputs.
    pub more: Map<String, Value>,
}

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// The run has not ended.
    Running,
    /// Every picture has a result.
    Done,
    /// The user or an error stopped the run.
    Interrupted,
}
