//! What arrays are called in `.npz` archives and `.pt` files, each in the order in which the names are looked for.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// Pictures that were attacked.
pub(super) const ADVERSARIAL: [&str; 6] = [
    "adv_inputs",
    "adv",
    "x_adv",
    "adv_images",
    "adv_complete",
    "images",
];
/// Pictures before the attack.
pub(super) const CLEAN: [&str; 5] = ["clean_inputs", "clean", "x_clean", "inputs", "x"];
/// True labels.
pub(super) const LABELS: [&str; 5] = ["labels", "label", "y", "target", "targets"];
/// What the attack's victim said.
pub(super) const PREDICTED: [&str; 2] = ["preds", "predicted"];

/// The files that may lie beside an array of pictures and belong to it.
pub(super) fn beside_array(path: &Path) -> impl Iterator<Item = PathBuf> {
    let names = ["clean.npy", "labels.npy", "labels.pt", "preds.npy"];
    names.into_iter().map(|name| path.with_file_name(name))
}

/// The error about a file without any attacked pictures.
pub(super) fn no_pictures(path: &Path) -> Error {
    let names = ADVERSARIAL.join(", ");
    let message = format!("has no attacked pictures; they are called {names}");
    Error::file(path, message)
}
