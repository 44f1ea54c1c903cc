//! One picture of a data set, before it is decoded.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::arrays::ArrayFile;
use super::cifar::CifarFile;
use super::webdataset::TarFile;

/// One picture of a [`Dataset`].
#[derive(Clone, Debug)]
pub struct Item {
    /// Unique in the dataset; mirrors the input tree: `a/b.png`, `batch.npy#17`.
    pub id: String,
    /// The true label, where the input gives one.
    pub label: Option<usize>,
    /// What a manifest says of the picture beside `file` and `label`.
    pub more: Map<String, Value>,
    pub(super) place: Place,
}

/// Where a picture's pixels are.
#[derive(Clone, Debug)]
pub(super) enum Place {
    File(PathBuf),
    Array(Arc<ArrayFile>, usize),
    Cifar(Arc<CifarFile>, usize),
    Tar(Arc<TarFile>, usize),
    /// Nowhere: the stream's line is damaged; what is wrong with it.
    Unknown(String),
}
