//! Where a run's results go.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{Global, STDOUT, messages};
use crate::error::{Error, Result};
use crate::run::Outputs;
use crate::run::{Existing, ResultsCopy, TarSize};
use crate::run::{RunOptions, SaveFormat};

/// What becomes of the run that the output folder holds.
#[derive(Clone, Debug, clap::Args)]
pub struct ExistingArgs {
    /// Replace the run that OUT holds
    #[arg(long, conflicts_with = "resume")]
    pub overwrite: bool,
    /// Go on with the run that OUT holds, of the same options: finished pictures are skipped, failed ones
    /// tried again
    #[arg(long)]
    pub resume: bool,
}

impl ExistingArgs {
    /// What may be in the folder.
    pub fn existing(&self) -> Existing {
        match (self.overwrite, self.resume) {
            (true, _) => Existing::Overwrite,
            (_, true) => Existing::Resume,
            _ => Existing::Refuse,
        }
    }
}

/// What others can follow a run by.
#[derive(Clone, Debug, clap::Args)]
pub struct FollowArgs {
    /// Write every result here too, one JSON object a line, as soon as it is known; - is standard output,
    /// and what else is said there then goes to stderr
    #[arg(long, value_name = "FILE")]
    pub jsonl: Option<PathBuf>,
    /// Write counts, rate and phases here every 5 seconds, in Prometheus' text form (node_exporter's
    /// textfile collector)
    #[arg(long, value_name = "FILE.prom")]
    pub metrics: Option<PathBuf>,
}

impl FollowArgs {
    /// Whether stdout has the results.
    pub fn jsonl_is_stdout(&self) -> bool {
        self.jsonl.as_deref() == Some(Path::new("-"))
    }

    /// `outputs` with the files that it names.
    pub(crate) fn outputs(&self, outputs: Outputs) -> Outputs {
        let jsonl = self.jsonl.as_deref().filter(|_| !self.jsonl_is_stdout());
        let outputs = outputs.file("jsonl", jsonl);
        outputs.file("metrics", self.metrics.as_deref())
    }

    /// Where `--jsonl` wants the results.
    ///
    /// # Errors
    /// It names a file that cannot be written.
    pub fn copy(&self) -> Result<Option<ResultsCopy>> {
        Ok(match &self.jsonl {
            None => None,
            Some(_) if self.jsonl_is_stdout() => Some(ResultsCopy {
                name: STDOUT.into(),
                out: Box::new(std::io::stdout()),
            }),
            Some(path) => Some(ResultsCopy {
                name: path.clone(),
                out: Box::new(File::create(path).map_err(Error::io(path))?),
            }),
        })
    }

    /// Prints a line for the user: to stdout, or to stderr where stdout has the results.
    ///
    /// # Errors
    /// stdout cannot be written.
    pub fn print(&self, line: &str) -> Result<()> {
        match self.jsonl_is_stdout() {
            true => {
                messages::say(log::Level::Info, line);
                Ok(())
            }
            false => super::print(line),
        }
    }
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct RunFolderArgs {
    /// Folder for images/, results.jsonl, run.json and report.html
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    #[command(flatten)]
    pub existing: ExistingArgs,
    /// Resume although the classifier, the options or backstitch changed; run.json records what
    #[arg(long, requires = "resume")]
    pub allow_changes: bool,
    /// Form of the output pictures
    #[arg(long, value_enum, default_value_t = SaveFormat::Png)]
    pub save: SaveFormat,
    /// Write output pictures to tar files (WebDataset), with their true labels
    #[arg(long)]
    pub tar_out: bool,
    /// Pictures of a tar file
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10_000,
        requires = "tar_out",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub tar_pictures: u64,
    /// Bytes of pictures after which a tar file is full
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000_000_000,
        requires = "tar_out",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub tar_bytes: u64,
    /// Write no report.html; purify then probes only what its results need, which takes less time for clean
    /// pictures
    #[arg(long)]
    pub no_report: bool,
    #[command(flatten)]
    pub follow: FollowArgs,
}

impl RunFolderArgs {
    /// Everything that a run writes.
    pub(crate) fn outputs(&self, global: &Global) -> Outputs {
        let outputs = global.outputs().run_folder(&self.output);
        self.follow.outputs(outputs)
    }

    /// The options of [`RunFolder::open`](crate::run::RunFolder::open).
    ///
    /// # Errors
    /// `--jsonl` names a file that cannot be written.
    pub fn options(&self) -> Result<RunOptions> {
        let existing = match self.existing.existing() {
            Existing::Resume if self.allow_changes => Existing::ResumeChanged,
            existing => existing,
        };
        Ok(RunOptions {
            path: self.output.clone(),
            existing,
            save: self.save,
            tar: self.tar_out.then_some(TarSize {
                pictures: self.tar_pictures,
                bytes: self.tar_bytes,
            }),
            report: !self.no_report,
            metrics: self.follow.metrics.clone(),
            copy: self.follow.copy()?,
        })
    }
}
