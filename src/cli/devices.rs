//! `backstitch devices`.

use serde_json::json;

use super::Outcome;
use crate::backend::cpu::peak::peak_gflops;
use crate::backend::cpu::simd::Isa;
use crate::error::Result;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints what this machine and this build can compute on.
pub fn run(args: &Args) -> Result<Outcome> {
    let threads = rayon::current_num_threads();
    let isa = Isa::detect().name();
    let gflops = peak_gflops();
    if args.json {
        let cpu = json!({
            "device": "cpu",
            "threads": threads,
            "instructions": isa,
            "peak_gflops": gflops,
        });
        super::print(&json!({ "devices": [cpu] }).to_string())?;
    } else {
        super::print(&format!(
            "cpu: {threads} threads, {isa}, {gflops:.0} GFLOP/s in float32 at most (measured)"
        ))?;
    }
    Ok(Outcome::Done)
}
