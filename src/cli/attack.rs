//! `backstitch attack`.

use super::inputs::Inputs;
use super::model::Model;
use super::run_folder::RunFolderArgs;
use super::values::fraction;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub inputs: Inputs,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub run: RunFolderArgs,
    #[command(flatten)]
    pub attack: AttackArgs,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Attack")]
pub struct AttackArgs {
    /// The attack
    #[arg(long, value_enum, default_value_t = Method::Pgd)]
    pub method: Method,
    /// How the size of the perturbation is measured
    #[arg(long, value_enum, default_value_t = Norm::Linf)]
    pub norm: Norm,
    /// Largest size of the perturbation, for pixels in [0, 1]: 0.03 or 4/255 [default: the method's]
    #[arg(long, value_parser = fraction)]
    pub eps: Option<f32>,
    /// Size of a step [default: the method's]
    #[arg(long, value_parser = fraction)]
    pub step_size: Option<f32>,
    /// Number of steps [default: the method's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: Option<u32>,
    /// Start pgd at the image itself instead of at a random point of the ball
    #[arg(long)]
    pub no_random_start: bool,
    /// Lead to this label instead of away from the true one
    #[arg(long, value_name = "LABEL")]
    pub target: Option<usize>,
    /// Source of the random start
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    Fgsm,
    Bim,
    Pgd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Norm {
    Linf,
    L2,
}
