//! `INPUT...` and what says how to read it.

use std::path::PathBuf;

use crate::error::Result;
use crate::io::{Classes, Dataset, Layout};

#[derive(Clone, Debug, clap::Args)]
pub struct Inputs {
    /// Images (PNG, JPEG, WebP, BMP, GIF, TIFF), folders of them, .npy or .npz arrays (float32 from 0 to
    /// 1, or uint8), CIFAR-10 .bin files, .jsonl manifests with "file" and "label"
    #[arg(value_name = "INPUT", required = true)]
    pub inputs: Vec<PathBuf>,
    /// File with one class-folder name a line, in label order (a tab and a name to show may follow):
    /// pictures in such folders get true labels
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Order of an array's axes, where its shape leaves it open
    #[arg(long, value_enum)]
    pub layout: Option<Layout>,
}

impl Inputs {
    /// Lists the pictures; none is decoded yet.
    pub fn open(&self) -> Result<Dataset> {
        let classes = self.classes.as_deref().map(Classes::open).transpose()?;
        Dataset::open(&self.inputs, self.layout, classes)
    }
}
