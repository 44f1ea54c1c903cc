//! `backstitch bench`.

use std::path::PathBuf;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Measure this classifier too, an ONNX file
    #[arg(long, value_name = "FILE")]
    pub classifier: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
