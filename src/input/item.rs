//! One picture of a data set, before it is decoded.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::arrays::ArrayFile;
use super::cifar::CifarFile;
use super::parquet::ParquetFile;
use super::webdataset::TarFile;

/// One picture of a [`Dataset`](super::Dataset).
#[derive(Clone, Debug)]
pub struct Item {
    /// The picture's id, unique in the data set, after its path in the input: `a/b.png`, `batch.npy#17`.
    pub id: String,
    /// The true label, if the input gives one.
    pub label: Option<usize>,
    /// The manifest's fields of the picture other than `file` and `label`.
    pub more: Map<String, Value>,
    pub(super) place: Place,
}

/// The file or array that holds a picture's pixels.
#[derive(Clone, Debug)]
pub(super) enum Place {
    File(PathBuf),
    Array(Arc<ArrayFile>, usize),
    Cifar(Arc<CifarFile>, usize),
    Parquet(Arc<ParquetFile>, usize),
    Tar(Arc<TarFile>, usize),
    /// None, because the stream's line is damaged; the text says what is wrong with it.
    Unknown(String),
}
