//! `backstitch purify`.

use super::inputs::Inputs;
use super::model::Model;
use super::run_folder::RunFolderArgs;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub inputs: Inputs,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub run: RunFolderArgs,
}
