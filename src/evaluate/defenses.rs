//! The rows of the table: what is compared.

use serde_json::json;

use super::row::{BACKSTITCH, DIPDEFEND, NONE, Row};
use crate::baseline::{self, Baseline};
use crate::defense::{Options, Outcome, Shown};

/// Every row, in the order of the table: no defense, the baselines, DIPDefend, the ablations, the whole
/// method.
pub fn rows(baselines: &[baseline::Method], options: &Options) -> Vec<Row> {
    let of_baseline = |baseline: &baseline::Method| Row {
        name: baseline.name(),
        description: match baseline {
            baseline::Method::None(_) => "no defense",
            baseline::Method::Jpeg(_) => "JPEG compression",
            baseline::Method::Bits(_) => "bit depth reduction",
            baseline::Method::Median(_) => "median filter",
            baseline::Method::Tv(_) => "total variation minimization",
        },
        parameters: json!(baseline),
    };
    let mut rows: Vec<Row> = baselines.iter().map(of_baseline).collect();
    let part = |name: &str, description| Row {
        name: name.into(),
        description,
        parameters: json!({ "part_of": BACKSTITCH }),
    };
    rows.extend([
        part(
            DIPDEFEND,
            "DIPDefend: one reconstruction, stopped at the smoothed PSNR's maximum (Dai et al. 2020), \
             probed as often as backstitch probes",
        ),
        part(
            RECONSTRUCTION,
            "ablation: one restart's last reconstruction",
        ),
        part(
            BOUNDARY,
            "ablation: verdict and on-boundary image, without push and stitch",
        ),
        part(PUSH, "ablation: verdict and pushed image, without stitch"),
    ]);
    rows.push(Row {
        name: BACKSTITCH.into(),
        description: "the whole method",
        parameters: json!(options),
    });
    debug_assert!(rows.first().is_none_or(|row| row.name == NONE));
    rows
}

const RECONSTRUCTION: &str = "reconstruction";
const BOUNDARY: &str = "boundary";
const PUSH: &str = "push";

/// Takes the outputs of DIPDefend and the ablations out of an outcome, with their rows' names.
pub(super) fn ablations(outcome: &mut Outcome) -> Vec<(&'static str, Shown)> {
    let Some(ablations) = outcome.ablations.take() else {
        return Vec::new();
    };
    vec![
        (DIPDEFEND, ablations.early_stop),
        (RECONSTRUCTION, ablations.reconstruction),
        (BOUNDARY, ablations.boundary),
        (PUSH, ablations.push),
    ]
}
