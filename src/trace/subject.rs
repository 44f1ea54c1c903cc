//! The picture that is traced, its outcome, and the names of its labels.

use crate::defense::Outcome;
use crate::input::Classes;
use crate::picture::Picture;
use crate::run::report::role::Labels;

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// The picture's name.
    pub image: &'a str,
    /// The picture in the classifier's size.
    pub picture: &'a Picture,
    /// Its true label, if it is known.
    pub truth: Option<usize>,
    /// What the defense found and made of the picture, the decision map included.
    pub outcome: &'a Outcome,
    /// Names for labels.
    pub classes: Option<&'a Classes>,
}

impl Trace<'_> {
    pub(super) fn name(&self, label: usize) -> Option<&str> {
        self.classes?.name(label)
    }

    /// A label's number, with its name if it has one.
    pub(super) fn class_name(&self, label: usize) -> String {
        let name = self.name(label);
        name.map_or(format!("class {label}"), |name| format!("{label} {name}"))
    }

    pub(super) fn labels(&self) -> Labels {
        Labels {
            truth: self.truth,
            input: self.outcome.map.input_label(),
            recovered: self.outcome.recovered_label,
        }
    }

    /// Iteration of checkpoint `probe`, which counts from 0.
    pub(super) fn iteration(&self, probe: usize) -> Option<u32> {
        let trajectory = self.outcome.map.trajectories.first()?;
        Some(trajectory.get(probe)?.iteration)
    }

    /// Iterations between checkpoints.
    pub(super) fn interval(&self) -> u32 {
        self.iteration(0).unwrap_or(1)
    }
}
