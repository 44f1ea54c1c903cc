//! The defense: one file for each stage.
//!
//! ```text
//! reconstruct ─► trajectory ─► decision_map ─► verdict ─► localize ─► push ─► stitch ─► output
//!      A             B              C             C           D         E        F         G
//! ```
//!
//! The four steps are those of Ding et al. 2021: map the reconstructions to the decision space, localize
//! on-boundary images, push them away from the adversarial image, stitch. The details of each step and all
//! defaults are this project's own.

mod decision_map;
mod device;
mod drawing;
mod fitting;
mod localize;
mod manifold;
mod map_options;
mod memory;
mod nudge;
mod options;
mod oracle;
mod outcome;
mod pipeline;
mod probe;
mod push;
mod reading;
mod reconstruct;
mod restore;
mod room;
mod settling;
mod stitch;
mod stopping;
mod trajectory;
mod twins;
mod verdict;
mod voters;
mod votes;

pub use decision_map::{DecisionMap, Pair, Segment, SegmentPoint, Towards};
pub use device::{DeviceDefense, Times};
pub use fitting::reconstruct;
pub use localize::{Boundary, LocalizeOptions};
pub use map_options::MapOptions;
pub use memory::MemoryPart;
pub use options::{Options, OwnOptions};
pub use oracle::Oracle;
pub use outcome::{Ablations, Fallback, Outcome, PathOutcome, Shown};
pub use pipeline::Defense;
pub use probe::Prober;
pub use push::{ChosenPush, PushOptions};
pub(crate) use reading::MIN_LOG_PROB;
pub use reading::Reading;
pub use reconstruct::{ReconstructOptions, ReconstructionId, ReconstructionPath, Reconstructions};
pub(crate) use room::Room;
pub use settling::SettlingOptions;
pub use stitch::{StitchMode, StitchOptions};
pub use trajectory::{Trajectory, TrajectoryPoint};
pub use verdict::{EvidenceOptions, Judgment, Verdict, VerdictOptions};
pub(crate) use verdict::{Lead, Odds};
pub use votes::Vote;
pub(crate) use votes::support;
