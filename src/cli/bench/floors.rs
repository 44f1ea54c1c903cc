//! `backstitch bench --model`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Args;
use crate::backend::cuda::kernels::NVCC;
use crate::backend::cuda::model::{Chip, Demand, Floor, Issued, Iteration, iterations};
use crate::bench::end_to_end::{ASSUMED, EndToEnd, estimate};
use crate::cli::{Outcome, print};
use crate::dip::Preset;
use crate::error::{Error, Result};

/// What floors are, beside the numbers.
const NOTE: &str = "a model, no measurement: floors from published rates, and counts on the emulator and \
                    of the instructions of the PTX";
/// The same of a build without PTX.
const SHORT_NOTE: &str = "a model, no measurement: floors from published rates and counts on the emulator; \
                          this build had no nvcc, so instructions are not counted";

/// What the estimate from file to file is, beside the numbers.
const END_TO_END_NOTE: &str = "a model, no measurement: kernels at their floors by bytes and multiply-adds, launches and waits as \
                               assumed, the host's work as measured here; all pictures adversarial, the \
                               longest way; nothing of the device's thread goes on beside the device's work";

/// The preset whose pictures are followed from file to file: the default.
const END_TO_END: Preset = Preset::Tiles;

/// How busy a device shall be.
const BUSY: f64 = 0.9;

/// Prints what a chip needs at least for the presets' iterations, and for whole pictures where there is a
/// classifier.
pub(super) fn run(chip: &str, args: &Args) -> Result<Outcome> {
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
        print(note())?;
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
    let mut all = json!({
        "chip": chip,
        "on_chip_bandwidth": chip.on_chip_bandwidth(),
        "note": note(),
        "presets": figures,
    });
    if let Some(path) = &args.classifier
        && args.presets().any(|preset| preset == END_TO_END)
    {
        let estimate = estimate(chip, END_TO_END, &args.graph(path)?)?;
        if args.json {
            all["end_to_end"] = end_to_end_figure(chip, &estimate);
        } else {
            end_to_end_table(chip, &estimate)?;
        }
    }
    if args.json {
        print(&all.to_string())?;
    }
    Ok(Outcome::Done)
}

fn note() -> &'static str {
    match NVCC {
        Some(_) => NOTE,
        None => SHORT_NOTE,
    }
}

/// The kernels of a table, those that take longest first; the rest share a line.
const KERNELS_LISTED: usize = 8;

fn end_to_end_table(chip: &Chip, estimate: &EndToEnd) -> Result<()> {
    let EndToEnd { wave, host, device } = estimate;
    let pictures = wave.pictures as f64;
    let ms = |seconds: f64| format!("{:9.4} ms", 1e3 * seconds);
    let share = |seconds: f64| format!("{:4.1}%", 100.0 * seconds / device.seconds());
    print(&format!(
        "\n{}, from file to file: {:.3} ms a picture, {:.0} pictures a second; the device busy {:.1}% of \
         the time",
        END_TO_END.name(),
        1e3 * device.seconds(),
        1.0 / device.seconds(),
        100.0 * device.busy(),
    ))?;
    print(END_TO_END_NOTE)?;
    print(&format!(
        "{} pictures share the device: {:.0} images classified a picture, {:.0} launches, {:.0} results \
         waited for; {:.2} MB up, {:.2} MB down",
        wave.pictures,
        wave.probes as f64 / pictures,
        wave.kernels
            .values()
            .map(|kernel| kernel.launches)
            .sum::<f64>()
            / pictures,
        wave.downloads.count as f64 / pictures,
        wave.uploads.bytes as f64 / 1e6 / pictures,
        wave.downloads.bytes as f64 / 1e6 / pictures,
    ))?;
    let mut kernels = by_floor(chip, &wave.kernels);
    let others = kernels.split_off(KERNELS_LISTED.min(kernels.len()));
    let floor = |demand: &Demand| chip.floor(demand).seconds() / pictures;
    let rest: f64 = others.iter().map(|(_, demand)| floor(demand)).sum();
    let measured = format!("measured on this machine, {} threads", host.threads);
    let lines = [
        ("kernels at their floors", device.working, ""),
        ("launches behind", device.launching, "assumed"),
        (
            "transfers",
            device.transferring,
            "the link's published rate",
        ),
        ("waits for results", device.waiting, "assumed"),
        ("the host decides", device.deciding, &measured),
    ];
    for (what, seconds, source) in lines {
        print(&format!(
            "  {what:29} {} {}  {source}",
            ms(seconds),
            share(seconds)
        ))?;
        if what == lines[0].0 {
            for (name, demand) in &kernels {
                let bound = chip.floor(demand).bound().name();
                print(&format!(
                    "    {name:27} {} {}  {bound}",
                    ms(floor(demand)),
                    share(floor(demand))
                ))?;
            }
            let name = format!("{} more kernels", others.len());
            print(&format!("    {name:27} {} {}", ms(rest), share(rest)))?;
        }
    }
    print(&format!(
        "assumed: {:.0} us from launch to launch, {:.0} us to hear of a result; the link moves {:.0} GB/s each way",
        1e6 * ASSUMED.launch,
        1e6 * ASSUMED.wait,
        chip.link_bandwidth,
    ))?;
    print(&format!(
        "beside the device, measured on this machine, a thread: {} to read a picture (JPEG of 500x375, \
         resized), {} to write one (PSNR, SSIM, PNG; without the disk)",
        ms(host.reading).trim_start(),
        ms(host.writing).trim_start(),
    ))?;
    print(&match device.threads(BUSY, host) {
        Some(threads) => format!(
            "the device is busy {:.0}% of the time with {threads} threads of such a host",
            100.0 * BUSY
        ),
        None => format!(
            "such a host keeps the device from being busy {:.0}% of the time: it may decide for {} a picture",
            100.0 * BUSY,
            ms(device.deciding_for(BUSY).max(0.0)).trim_start()
        ),
    })?;
    print(&format!(
        "two engines on the device (--device cuda,cuda), each with pictures of its own: busy {:.1}% of the time",
        100.0 * device.busy_with(2)
    ))
}

fn end_to_end_figure(chip: &Chip, estimate: &EndToEnd) -> Value {
    let EndToEnd { wave, host, device } = estimate;
    json!({
        "note": END_TO_END_NOTE,
        "preset": END_TO_END,
        "pictures": wave.pictures,
        "probes": wave.probes,
        "uploads": wave.uploads,
        "downloads": wave.downloads,
        "zeroings": wave.zeroings,
        "assumed": ASSUMED,
        "host_seconds_a_picture": host,
        "device_seconds_a_picture": device,
        "seconds_a_picture": device.seconds(),
        "busy": device.busy(),
        "busy_with_two_engines": device.busy_with(2),
        "threads_for_90_percent": device.threads(BUSY, host),
        "deciding_for_90_percent": device.deciding_for(BUSY),
        "kernels": kernel_figures(chip, &wave.kernels),
    })
}

/// The kernels, those that take longest first.
fn by_floor<'a>(
    chip: &Chip,
    kernels: &'a BTreeMap<&'static str, Demand>,
) -> Vec<(&'static str, &'a Demand)> {
    let mut kernels: Vec<_> = kernels.iter().map(|(&name, d)| (name, d)).collect();
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
        iteration.mode,
        1e6 * all,
        1.0 / all,
        100.0 * share_of_peak(chip, iteration),
        iteration.launches(),
        side = iteration.side,
    ))?;
    let parts = Floor::default().bounds().map(|(bound, _)| bound.name());
    let parts: String = parts.iter().map(|name| format!(" {name:>9}")).collect();
    print(&format!(
        "  {:29} {:>8} {:>9} {:>5}  {:8}{parts} {:>9}",
        "kernel", "launches", "us", "share", "bound", "a FMA"
    ))?;
    for (name, demand) in by_floor(chip, &iteration.kernels) {
        let floor = chip.floor(demand);
        let parts = floor.bounds();
        let parts: String = parts
            .iter()
            .map(|(_, seconds)| format!(" {:9.4}", 1e6 * seconds))
            .collect();
        let each = demand.issued.as_ref().and_then(Issued::each);
        print(&format!(
            "  {name:29} {:8} {:9.4} {:4.0}%  {:8}{parts} {:>9}",
            demand.launches,
            1e6 * floor.seconds(),
            100.0 * floor.seconds() / all,
            floor.bound().name(),
            each.map_or("-".to_owned(), |each| format!("{each:.1}")),
        ))?;
    }
    Ok(())
}

fn kernel_figures(chip: &Chip, kernels: &BTreeMap<&'static str, Demand>) -> Vec<Value> {
    let figure = |(name, demand): (&str, &Demand)| {
        let floor = chip.floor(demand);
        json!({
            "kernel": name,
            "seconds": floor.seconds(),
            "bound": floor.bound(),
            "floors": floor,
            "counts": demand,
            "instructions_a_multiply_add": demand.issued.as_ref().and_then(Issued::each),
        })
    };
    let kernels = by_floor(chip, kernels);
    kernels.into_iter().map(figure).collect()
}

fn figure(chip: &Chip, preset: Preset, iteration: &Iteration) -> Value {
    json!({
        "preset": preset,
        "mode": iteration.mode,
        "side": iteration.side,
        "seconds": iteration.floor(chip),
        "instance_iterations_per_second": 1.0 / iteration.floor(chip),
        "share_of_float32_peak": share_of_peak(chip, iteration),
        "launches": iteration.launches(),
        "kernels": kernel_figures(chip, &iteration.kernels),
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
            mode: "op by op",
            side: 32,
            convolutions: 66_900_000,
            kernels: [("a", by_memory), ("b", by_arithmetic)].into(),
        };
        let figure = figure(chip, Preset::Tiles, &iteration);
        assert_eq!(figure["kernels"][0]["kernel"], "b");
        assert_eq!(figure["kernels"][0]["bound"], "float32");
        assert_eq!(figure["kernels"][1]["bound"], "memory");
        let seconds = figure["seconds"].as_f64().expect("a number");
        assert!((seconds / 3e-6 - 1.0).abs() < 1e-12);
        let share = figure["share_of_float32_peak"].as_f64().expect("a number");
        assert!((share - 2.0 / 3.0).abs() < 1e-12);
    }
}
