//! `backstitch merge`.

use std::path::PathBuf;

use super::Outcome;
use crate::error::Result;
use crate::run::merge::{Options, merge};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The run folders of a dataset's shards
    #[arg(value_name = "SHARD_OUT", required = true)]
    pub runs: Vec<PathBuf>,
    /// Folder to make of them, as one run would have; pictures are linked where the file system can
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// Join what is there of shards that are missing or not finished
    #[arg(long)]
    pub partial: bool,
    /// Write no report.html
    #[arg(long)]
    pub no_report: bool,
}

/// Joins run folders.
pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let options = Options {
        partial: args.partial,
        report: !args.no_report,
    };
    let counts = merge(&args.runs, &args.output, &options)?;
    super::print(&format!(
        "{} pictures of {} runs, {} of them failed",
        counts.done + counts.failed,
        args.runs.len(),
        counts.failed
    ))?;
    Ok(Outcome::Done)
}
