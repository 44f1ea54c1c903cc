//! `backstitch classify`.

use std::path::PathBuf;

use super::inputs::Inputs;
use super::model::Model;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub inputs: Inputs,
    #[command(flatten)]
    pub model: Model,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Write the raw logits here: float32, images x classes
    #[arg(long, value_name = "FILE.npy")]
    pub logits: Option<PathBuf>,
}
