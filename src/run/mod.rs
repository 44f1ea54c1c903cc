//! The run folder: output pictures, `results.jsonl`, `run.json`, the report.
//!
//! ```text
//! OUT/images/…       the output pictures, mirroring the input tree, or tar files of them
//! OUT/results.jsonl  one object per picture; a journal, appended to
//! OUT/run.json       configuration, versions, device, counts, throughput, phases, memory
//! OUT/report.html    the pictures; appended to
//! OUT/.lock          held while a run writes
//! ```
//!
//! Every other file is written under a temporary name and renamed when it is complete.

mod claim;
mod folder;
mod journal;
mod line;
pub mod merge;
mod metrics;
pub(crate) mod names;
mod options;
mod overlap;
mod pictures;
pub(crate) mod record;
pub mod report;
mod resume;
mod status;
mod tally;

pub(crate) use self::claim::{ATTACKED, CELLS, take_folder};
pub use self::folder::RunFolder;
pub(crate) use self::folder::{refuse_stranger, save_picture};
pub use self::metrics::Exporter;
pub use self::options::{Existing, ResultsCopy, RunDescription, RunOptions, RunState, SaveFormat};
pub use self::overlap::Outputs;
pub use self::pictures::TarSize;
pub use self::record::{ImageRecord, Pixels};
pub(crate) use self::resume::identity;
pub use self::status::{Counts, Phase, Status};
pub use self::tally::Tally;

#[cfg(test)]
mod tests;
