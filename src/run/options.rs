//! How a run folder is made, and what its run is.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::pictures::TarSize;
use crate::error::Result;
use crate::files::replace::write_error;

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
    /// A run that goes on whatever was changed since; `run.json` records what.
    ResumeChanged,
}

/// The form of output pictures.
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

/// How a run folder is made.
#[derive(Debug, Default)]
pub struct RunOptions {
    /// The run folder.
    pub path: PathBuf,
    /// What to do where the folder exists.
    pub existing: Existing,
    /// Format of the output pictures.
    pub save: SaveFormat,
    /// Output pictures go to tar shards of this size instead of files.
    pub tar: Option<TarSize>,
    /// Whether to write `report.html`.
    pub report: bool,
    /// The file that tells monitoring how far the run is.
    pub metrics: Option<PathBuf>,
    /// Where the lines of this run's results go too.
    pub copy: Option<ResultsCopy>,
}

/// A second place for a run's results, one line each as soon as it is known.
pub struct ResultsCopy {
    /// What errors are about.
    pub name: PathBuf,
    /// What the lines are written to.
    pub out: Box<dyn Write + Send>,
}

impl ResultsCopy {
    /// Writes a line, which ends with its newline; when this returns, its readers have it.
    ///
    /// # Errors
    /// It cannot be written.
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

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// The run has not ended.
    Running,
    /// Every picture has a result.
    Done,
    /// By the user, or by an error that stopped the whole run.
    Interrupted,
}
