//! `backstitch bench`.

#[cfg(feature = "emulator")]
mod floors;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Global, Outcome, device};
use crate::backend::Backend;
use crate::bench;
use crate::classifier::{Graph, LoadOptions};
use crate::dip::Preset;
use crate::error::Result;
use crate::picture::Size;
use crate::purifier::Backends;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Measure this classifier too, an ONNX file; with --model, what a picture takes from file to file
    #[arg(long, value_name = "FILE")]
    pub classifier: Option<PathBuf>,
    /// Image size to run the classifier at, height first, where its file leaves that open
    #[arg(long, value_name = "HxW", requires = "classifier")]
    pub size: Option<Size>,
    /// Measure this preset only
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// DIP networks at once [default: on a GPU as many as it runs well at once; on the processor as many as
    /// cover one 224x224 picture, 64 for cifar]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub instances: Option<u32>,
    /// Seconds for each figure, at least
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    pub seconds: f64,
    /// Measure nothing, but say what this chip's published rates allow, by the emulator's counts
    #[arg(long, value_name = "CHIP", value_parser = CHIPS, conflicts_with = "seconds")]
    pub model: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The chips that the cost model knows.
const CHIPS: [&str; 4] = ["h100", "a100", "l4", "rtx4090"];

impl Args {
    /// What is asked for.
    fn presets(&self) -> impl Iterator<Item = Preset> {
        let wanted = |preset: &Preset| self.preset.is_none_or(|only| only == *preset);
        Preset::ALL.into_iter().filter(wanted)
    }

    /// The classifier.
    fn graph(&self, path: &Path) -> Result<Graph> {
        let options = LoadOptions {
            image_size: self.size.map(|size| (size.height, size.width)),
            ..LoadOptions::default()
        };
        Graph::load(path, &options)
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("write a number from 0 to 3600".into()),
    }
}

/// Measures the device's engines and prints the figures.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Outcome> {
    global.outputs().check(&args.classifier)?;
    if let Some(chip) = &args.model {
        #[cfg(feature = "emulator")]
        return floors::run(chip, args);
        #[cfg(not(feature = "emulator"))]
        return Err(crate::Error::invalid(format!(
            "--model {chip} counts on the emulator, which this build lacks: build with cargo build \
             --release --features emulator"
        )));
    }
    device::run(global, |devices| match devices.only("bench")?.backends {
        Backends::Cpu(backends) => measure(args, &backends[0], false),
        // One picture's networks do not fill a GPU.
        #[cfg(any(feature = "cuda", feature = "emulator"))]
        Backends::Cuda(backends) => measure(args, &backends[0], true),
    })
}

/// Measures `backend`, with as many instances as it has room for where `fill` and nothing else is asked for.
fn measure(args: &Args, backend: &impl Backend, fill: bool) -> Result<Outcome> {
    let peak = backend.peak_gflops();
    let budget = Duration::from_secs_f64(args.seconds);
    let say = |line: String| match args.json {
        true => Ok(()),
        false => super::print(&line),
    };
    say(match peak {
        Some(peak) => format!("{}, {peak:.0} GFLOP/s at most", backend.name()),
        None => backend.name(),
    })?;
    let mut figures = Vec::new();
    for preset in args.presets() {
        let figure = bench::preset(backend, preset, args.instances, fill, budget)?;
        let of_peak = peak.map_or(String::new(), |peak| {
            format!(" ({:.0}% of peak)", 100.0 * figure.gflops / peak)
        });
        say(format!(
            "{:6} {:3} instances of {}x{}: {:8.3} ms an iteration, {:4.0} GFLOP/s{of_peak}",
            figure.preset,
            figure.instances,
            figure.tile_height,
            figure.tile_width,
            figure.ms_per_iteration,
            figure.gflops,
        ))?;
        figures.push(json!(figure));
    }
    let mut all = Map::from_iter([
        ("device".into(), Value::from(backend.name())),
        ("peak_gflops".into(), Value::from(peak)),
        ("presets".into(), Value::from(figures)),
    ]);
    if let Some(path) = &args.classifier {
        let graph = args.graph(path)?;
        let figure = bench::classifier(backend, &graph, budget)?;
        say(format!(
            "classifier: {:.3} ms an image in batches of {}, {:.3} alone, {:.3} with gradient; \
             {:.0} MB of weights and activations, {:.0} with gradient",
            figure.ms_per_image,
            figure.batch,
            figure.ms_per_image_batch1,
            figure.ms_per_gradient,
            figure.mb_for_logits,
            figure.mb_for_gradients,
        ))?;
        all.insert("classifier".into(), json!(figure));
    }
    if args.json {
        super::print(&Value::Object(all).to_string())?;
    }
    Ok(Outcome::Done)
}
