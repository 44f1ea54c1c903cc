//! `backstitch bench --model`.

use serde_json::{Value, json};

use super::Args;
use crate::backend::cuda::model::{Chip, Demand, Iteration, iterations};
use crate::cli::{Outcome, print};
use crate::dip::Preset;
use crate::error::{Error, Result};

/// What floors are, beside the numbers.
const NOTE: &str = "floors from published rates and counts on the emulator, nothing measured; gaps \
                    between launches, latency and double precision are not counted";

/// Prints what a chip needs at least for the presets' iterations.
pub fn run(chip: &str, args: &Args) -> Result<Outcome> {
    let chip = Chip::named(chip)
        .ok_or_else(|| Error::invalid(format!("the cost model knows no chip {chip}")))?;
    let mut figures = Vec::new();
    if !args.json {
        print(&format!(
            "{}: {} multiprocessors, {:.2} GHz, {} TFLOP/s in float32, {} in bf16 matrices, {} GB/s of \
             memory, {:.0} GB/s on the chip",
            chip.product,
            chip.multiprocessors,
            chip.boost_clock,
            chip.float32,
            chip.matrix_bf16,
            chip.memory_bandwidth,
            chip.on_chip_bandwidth(),
        ))?;
        print(NOTE)?;
    }
    for preset in args.presets() {
        for iteration in iterations(preset, chip)? {
            if args.json {
                figures.push(figure(chip, preset, &iteration));
            } else {
                table(chip, preset, &iteration)?;
            }
        }
    }
    if args.json {
        let all = json!({
            "chip": chip,
            "on_chip_bandwidth": chip.on_chip_bandwidth(),
            "note": NOTE,
            "presets": figures,
        });
        print(&all.to_string())?;
    }
    Ok(Outcome::Done)
}

/// The kernels, those that take longest first.
fn by_floor<'a>(chip: &Chip, iteration: &'a Iteration) -> Vec<(&'static str, &'a Demand)> {
    let mut kernels: Vec<_> = iteration
        .kernels
        .iter()
        .map(|(&name, d)| (name, d))
        .collect();
    kernels.sort_by(|a, b| {
        let seconds = |demand: &Demand| chip.floor(demand).seconds();
        seconds(b.1).total_cmp(&seconds(a.1))
    });
    kernels
}

/// Share of the float32 peak that the convolutions reach at the floor.
fn share_of_peak(chip: &Chip, iteration: &Iteration) -> f64 {
    let least = 2.0 * iteration.convolutions as f64 / (1e12 * chip.float32);
    least / iteration.floor(chip)
}

fn table(chip: &Chip, preset: Preset, iteration: &Iteration) -> Result<()> {
    let all = iteration.floor(chip);
    print(&format!(
        "\n{}, {side}x{side}, {}: {:.3} us an iteration of an instance at least, {:.0} a second; {:.0}% of \
         the float32 peak; {} launches",
        preset.name(),
        iteration.path,
        1e6 * all,
        1.0 / all,
        100.0 * share_of_peak(chip, iteration),
        iteration.launches(),
        side = iteration.side,
    ))?;
    print(&format!(
        "  {:29} {:>8} {:>9} {:>5}  {:10} {:>9} {:>9} {:>10} {:>9}",
        "kernel", "launches", "us", "share", "bound", "memory", "on-chip", "arithmetic", "matrix"
    ))?;
    for (name, demand) in by_floor(chip, iteration) {
        let floor = chip.floor(demand);
        print(&format!(
            "  {name:29} {:8} {:9.4} {:4.0}%  {:10} {:9.4} {:9.4} {:10.4} {:9.4}",
            demand.launches,
            1e6 * floor.seconds(),
            100.0 * floor.seconds() / all,
            floor.bound().name(),
            1e6 * floor.memory,
            1e6 * floor.on_chip,
            1e6 * floor.arithmetic,
            1e6 * floor.matrix,
        ))?;
    }
    Ok(())
}

fn figure(chip: &Chip, preset: Preset, iteration: &Iteration) -> Value {
    let kernels = by_floor(chip, iteration).into_iter().map(|(name, demand)| {
        let floor = chip.floor(demand);
        json!({
            "kernel": name,
            "seconds": floor.seconds(),
            "bound": floor.bound(),
            "floors": floor,
            "counts": demand,
        })
    });
    json!({
        "preset": preset,
        "path": iteration.path,
        "side": iteration.side,
        "seconds": iteration.floor(chip),
        "instance_iterations_per_second": 1.0 / iteration.floor(chip),
        "share_of_float32_peak": share_of_peak(chip, iteration),
        "launches": iteration.launches(),
        "kernels": kernels.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_the_models_chips() {
        assert_eq!(super::super::CHIPS, Chip::ALL.map(|chip| chip.name));
    }

    #[test]
    fn figures_say_what_bounds_each_kernel() {
        let chip = Chip::named("h100").expect("a chip");
        let by_memory = Demand {
            launches: 1.0,
            bytes: 3350e3,
            ..Demand::default()
        };
        let by_arithmetic = Demand {
            launches: 2.0,
            multiply_adds: 66.9e6,
            ..Demand::default()
        };
        let iteration = Iteration {
            path: "op by op",
            side: 32,
            convolutions: 66_900_000,
            kernels: [("a", by_memory), ("b", by_arithmetic)].into(),
        };
        let figure = figure(chip, Preset::Tiles, &iteration);
        assert_eq!(figure["kernels"][0]["kernel"], "b");
        assert_eq!(figure["kernels"][0]["bound"], "arithmetic");
        assert_eq!(figure["kernels"][1]["bound"], "memory");
        let seconds = figure["seconds"].as_f64().expect("a number");
        assert!((seconds / 3e-6 - 1.0).abs() < 1e-12);
        let share = figure["share_of_float32_peak"].as_f64().expect("a number");
        assert!((share - 2.0 / 3.0).abs() < 1e-12);
    }
}
