//! One row of the table: a defense.

use serde::Serialize;
use serde_json::Value;

/// The name of the row without any defense.
pub const NONE: &str = "none";
/// The name of the whole defense.
pub const BACKSTITCH: &str = "backstitch";
/// The name of the baseline that is computed as a part of the whole defense's run.
pub const DIPDEFEND: &str = "dipdefend";

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Short and unique: `jpeg-75`.
    pub name: String,
    /// What the defense does, in a few words.
    pub description: &'static str,
    /// The defense's options; DIPDefend and the ablations have those of the whole defense.
    pub parameters: Value,
}
