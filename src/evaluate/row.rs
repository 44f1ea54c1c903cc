//! One row of the table: a defense.

use serde::Serialize;
use serde_json::Value;

/// The name of the row without any defense.
pub const NONE: &str = "none";
/// The name of the whole defense.
pub const BACKSTITCH: &str = "backstitch";
/// The name of the baseline that is a part of its run.
pub const DIPDEFEND: &str = "dipdefend";

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub description: &'static str,
    /// Its options; those of DIPDefend and of the ablations are the whole defense's.
    pub parameters: Value,
}
