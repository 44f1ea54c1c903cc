//! How far bf16's PSNR curves are from float32's: the middles of photographs, fitted by small networks of the
//! presets' shapes, and by `skip` itself, on the emulator.
//!
//! `cargo bench --features emulator --bench precision -- OUT.json PHOTO...`
//!
//! Optimization doubles small differences again and again, so curves part whatever the precision: float32 on
//! the processor, which adds up in another order, says by how much.

use std::path::{Path, PathBuf};

use backstitch::backend::cpu::CpuBackend;
use backstitch::backend::cuda::CudaBackend;
use backstitch::backend::cuda::driver::emulator::{Emulator, Options};
use backstitch::backend::{At, Backend, DipEngine, Instance, Precision};
use backstitch::dip::{NetSpec, Preset};
use backstitch::error::{Error, Result};
use backstitch::picture::{Picture, rgb};
use backstitch::random::RandomKey;
use serde_json::{Value, json};

/// Iterations between two points of a curve.
const PROBE_INTERVAL: u32 = 10;

/// A network to fit, for so many iterations, to squares of `side` pixels a side, of the first `photographs`.
struct Case {
    network: &'static str,
    spec: NetSpec,
    side: usize,
    iterations: u32,
    photographs: usize,
}

/// Small ones for long, and a large one for as long as the emulator can.
fn cases() -> [Case; 3] {
    let small = |network, preset: Preset, depth: usize, channels: [usize; 4]| Case {
        network,
        spec: NetSpec {
            input_depth: depth,
            down: channels.to_vec(),
            up: channels.to_vec(),
            skip: vec![4; channels.len()],
            ..preset.spec(3)
        },
        side: 32,
        iterations: 200,
        photographs: 3,
    };
    let large = Case {
        network: "skip",
        spec: Preset::Skip.spec(3),
        side: 64,
        iterations: 50,
        photographs: 1,
    };
    [
        small("skip, small", Preset::Skip, 8, [8, 16, 32, 32]),
        small("wide, small", Preset::Wide, 16, [16; 4]),
        large,
    ]
}

/// The middle `side × side` pixels of a photograph, CHW.
fn middle(path: &Path, side: usize) -> Result<Vec<f32>> {
    let Picture { shape, pixels, .. } = Picture::open(path)?;
    if shape.height.min(shape.width) < side {
        let message = format!("is {shape}, smaller than {side}×{side}");
        return Err(Error::file(path, message));
    }
    let (top, left) = ((shape.height - side) / 2, (shape.width - side) / 2);
    let row = |i: usize| {
        let (channel, y) = (i / side, i % side + top);
        &pixels[(channel * shape.height + y) * shape.width + left..][..side]
    };
    let rows = 0..shape.channels * side;
    Ok(rows.flat_map(row).copied().collect())
}

/// PSNR in dB against the picture, every [`PROBE_INTERVAL`] iterations.
fn curve<B: Backend>(backend: &B, case: &Case, pixels: &[f32]) -> Result<Vec<f64>> {
    let mut target = backend.allocate(rgb(case.side, case.side), 1)?;
    backend.upload(pixels, &mut target, 0)?;
    let mut engine = backend.dip(&case.spec, case.side, case.side, 1)?;
    engine.load(&[Instance {
        slot: 0,
        target: At::new(&target, 0),
        key: RandomKey::default(),
    }])?;
    let probe = |_| {
        engine.run(PROBE_INTERVAL)?;
        Ok(thousandth(-10.0 * engine.losses(&[0])?[0].log10()))
    };
    (0..case.iterations / PROBE_INTERVAL).map(probe).collect()
}

/// To three digits behind the point.
fn thousandth(x: f64) -> f64 {
    (1e3 * x).round() / 1e3
}

/// How far curves lie from those of float32, in dB: on the average, without the sign, at most, and at the
/// ends.
fn apart(curves: &[Vec<f64>], float32: &[Vec<f64>]) -> Value {
    let less = |(curve, float32): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
        (curve.iter().zip(float32))
            .map(|(a, b)| thousandth(a - b))
            .collect()
    };
    let each: Vec<Vec<f64>> = curves.iter().zip(float32).map(less).collect();
    let all = each.concat();
    let mean = |numbers: Vec<f64>| thousandth(numbers.iter().sum::<f64>() / all.len() as f64);
    json!({
        "mean": mean(all.clone()),
        "mean_absolute": mean(all.iter().map(|d| d.abs()).collect()),
        "largest": all.iter().fold(0.0, |most: f64, d| most.max(d.abs())),
        "last": each.iter().map(|curve| curve.last()).collect::<Vec<_>>(),
    })
}

fn compare(backend: &CudaBackend, case: &Case, photographs: &[PathBuf]) -> Result<Value> {
    let rounding = backend.clone().with_precision(Precision::Bf16);
    let photographs = &photographs[..photographs.len().min(case.photographs)];
    let [mut float32, mut bf16, mut cpu] = [const { Vec::new() }; 3];
    for path in photographs {
        let pixels = middle(path, case.side)?;
        float32.push(curve(backend, case, &pixels)?);
        bf16.push(curve(&rounding, case, &pixels)?);
        cpu.push(curve(&CpuBackend::FLOAT32, case, &pixels)?);
    }
    let [bf16_apart, cpu_apart] = [&bf16, &cpu].map(|curves| apart(curves, &float32));
    println!(
        "{}: dB from the emulator's float32: bf16 {bf16_apart}, the processor's float32 {cpu_apart}",
        case.network
    );
    let name = |path: &PathBuf| {
        path.file_stem()
            .map(|name| name.to_string_lossy().into_owned())
    };
    Ok(json!({
        "network": case.network,
        "input_depth": case.spec.input_depth,
        "channels": case.spec.down,
        "skip": case.spec.skip,
        "side": case.side,
        "iterations": case.iterations,
        "photographs": photographs.iter().map(name).collect::<Vec<_>>(),
        "bf16_less_float32": bf16_apart,
        "cpu_less_float32": cpu_apart,
        "float32": float32,
        "bf16": bf16,
        "cpu": cpu,
    }))
}

fn main() -> Result<()> {
    // cargo says that it is a benchmark.
    let mut paths = std::env::args_os().skip(1).filter(|arg| arg != "--bench");
    let (Some(out), photographs) = (paths.next(), paths.map(PathBuf::from).collect::<Vec<_>>())
    else {
        println!("skipped: no OUT.json PHOTO...");
        return Ok(());
    };
    let backend = CudaBackend::new(Emulator::new(Options::default())?.device());
    let mut compared = vec![];
    for case in cases() {
        compared.push(compare(&backend, &case, &photographs)?);
        // After each, for they take minutes.
        let result = json!({
            "what": "PSNR in dB of DIP networks' outputs against the picture, by precision",
            "probe_interval": PROBE_INTERVAL,
            "cases": compared,
        });
        std::fs::write(&out, format!("{result:#}\n"))
            .map_err(|error| Error::file(Path::new(&out), error.to_string()))?;
    }
    Ok(())
}
