//! Evaluation: from pictures with true labels to a table of attacks and defenses.
//!
//! ```text
//! pictures ─► right when clean? ─► attacked ─► every defense ─► cells.jsonl ─► summary ─► flags
//!             (else excluded)      (a case)    (a row)          (journal)         └► JSON, Markdown, HTML
//! ```
//!
//! All defenses get the same attacked picture. It costs one purification, which computes DIPDefend and the
//! ablations too. The tables depend on the cells and the configuration only.

mod attacked;
mod case;
mod cell;
mod defenses;
mod flags;
mod html;
mod journal;
mod markdown;
mod pictures;
mod plot;
mod row;
mod run;
mod sheet;
mod sizes;
mod statistics;
mod suite;
mod summary;
#[cfg(test)]
mod tests;
mod view;

pub use case::{Case, CaseKind, Threat};
pub use cell::{Answer, Cell, Excluded};
pub use defenses::rows;
pub use flags::{Finding, Flag, State};
pub use journal::Journal;
pub use pictures::{Entry, Given, Load, entries, first};
pub use row::{BACKSTITCH, DIPDEFEND, NONE, Row};
pub use run::{Evaluator, Watch, kept_name, save_format};
pub use sizes::{Breaking, Curve, CurvePoint};
pub use statistics::{Proportion, roc_area};
pub use suite::{Choice, Suite, Wanted};
pub use summary::{
    AttackSummary, Defended, DefenseSummary, Detected, Detection, Evaluation, NotCounted, Pictures,
    STATIC, WorstCase, summarize,
};
pub use view::Source;

use crate::error::Result;

impl Evaluation {
    /// Writes `evaluation.json`, `.md` and `.html` into the run folder.
    ///
    /// # Errors
    /// The disk is full or fails; each file is then either complete or unchanged.
    pub fn write(&self, journal: &Journal) -> Result<()> {
        let json = serde_json::to_string_pretty(self).expect("it is plain data") + "\n";
        journal.write("evaluation.json", json.as_bytes())?;
        let document = sheet::document(self);
        journal.write("evaluation.md", markdown::render(&document).as_bytes())?;
        journal.write("evaluation.html", html::render(&document).as_bytes())
    }
}
