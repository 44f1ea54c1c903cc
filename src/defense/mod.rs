//! The defence: one file per stage, joined here.
//!
//! ```text
//! reconstruct ─► trajectory ─► decision_map ─► verdict ─► localise ─► push ─► stitch ─► output
//!      A             B              C             C           D         E        F         G
//! ```
//!
//! The four steps are those of Ding et al. 2021: map the reconstructions to the decision space,
//! localise on-boundary images, perturb them in the reverse direction to the adversarial image,
//! stitch. How each is done, and every default, is this project's choice.

mod decision_map;
mod device;
mod fitting;
mod localise;
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
mod settling;
mod stitch;
mod stopping;
mod trajectory;
mod verdict;
mod votes;

pub use decision_map::{DecisionMap, MapOptions, Pair, Segment, SegmentPoint, Towards};
pub use device::{DeviceDefense, Times};
pub use fitting::reconstruct;
pub use localise::{Boundary, LocaliseOptions};
pub use memory::MemoryPart;
pub use options::Options;
pub use oracle::Oracle;
pub use outcome::{Ablations, Fallback, Outcome, PathOutcome, Shown};
pub use pipeline::Defense;
pub(crate) use pipeline::Room;
pub use probe::Prober;
pub use push::{PushOptions, Step};
pub use reading::Reading;
pub use reconstruct::{Path, Placed, ReconstructOptions, ReconstructionId, Reconstructions};
pub use settling::SettlingOptions;
pub use stitch::{StitchMode, StitchOptions};
pub use stopping::smoothed_psnr_maximum;
pub use trajectory::{Trajectory, TrajectoryPoint, trace};
pub(crate) use verdict::{EVEN, LEAST_LOG, Odds, lead, log_probability};
pub use verdict::{Judgement, Verdict, VerdictOptions};
pub use votes::Vote;
pub(crate) use votes::support;
