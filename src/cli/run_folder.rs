//! Where a run's results go.

use std::path::PathBuf;

use crate::io::output::Existing;
use crate::io::{RunOptions, SaveFormat};

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct RunFolderArgs {
    /// Folder for images/, results.jsonl, run.json and report.html
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// Replace the run that OUT holds
    #[arg(long, conflicts_with = "resume")]
    pub overwrite: bool,
    /// Go on with the run that OUT holds, of the same options: finished pictures are skipped, failed ones
    /// tried again
    #[arg(long)]
    pub resume: bool,
    /// Form of the output pictures
    #[arg(long, value_enum, default_value_t = SaveFormat::Png)]
    pub save: SaveFormat,
    /// Write no report.html
    #[arg(long)]
    pub no_report: bool,
}

impl RunFolderArgs {
    /// The options of [`RunFolder::open`](crate::io::RunFolder::open).
    pub fn options(&self) -> RunOptions {
        let existing = match (self.overwrite, self.resume) {
            (true, _) => Existing::Overwrite,
            (_, true) => Existing::Resume,
            _ => Existing::Refuse,
        };
        RunOptions {
            path: self.output.clone(),
            existing,
            save: self.save,
            report: !self.no_report,
        }
    }
}
