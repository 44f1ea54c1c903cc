//! Milliseconds an iteration (forward, backward, Adam) of the cpu engines' DIP networks.
//!
//! `cargo bench --bench dip`

use std::hint::black_box;
use std::time::Duration;

use backstitch::backend::cpu::dip::blocked::BlockedDip;
use backstitch::backend::cpu::dip::lanes::LaneDip;
use backstitch::backend::host::HostImages;
use backstitch::backend::{At, DipEngine, ImageShape, Instance, Precision};
use backstitch::dip::Preset;
use backstitch::random::RandomKey;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};

/// Iterations of one call of the small networks' engine: it is not asked for single ones.
const ITERATIONS: u32 = 10;

/// Measures `iterations` of as many instances as the engine holds.
fn measure<E: DipEngine<Images = HostImages<f32>>>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    preset: Preset,
    side: usize,
    iterations: u32,
    engine: &mut E,
) {
    let shape = ImageShape {
        channels: 3,
        height: side,
        width: side,
    };
    let mut target = HostImages::zeroed(shape, 1).unwrap();
    for (i, v) in target.image_mut(0).iter_mut().enumerate() {
        *v = (i % 29) as f32 / 28.0;
    }
    let instances: Vec<_> = (0..engine.capacity())
        .map(|slot| Instance {
            slot,
            target: At::new(&target, 0),
            key: RandomKey {
                tile: slot as u32,
                ..RandomKey::default()
            },
        })
        .collect();
    engine.load(&instances).unwrap();
    group.bench_function(format!("{} ×{}", preset.name(), instances.len()), |b| {
        b.iter(|| black_box(&mut *engine).run(iterations).unwrap());
    });
}

fn lanes(c: &mut Criterion) {
    let mut group = c.benchmark_group("lanes, 10 iterations");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    let cases = [
        (Preset::Tiles, 49),
        (Preset::Tiles, 196),
        (Preset::Cifar, 1),
        (Preset::Cifar, 16),
        (Preset::Cifar, 64),
    ];
    for (preset, instances) in cases {
        let mut engine = LaneDip::new(&preset.spec(3), 32, 32, instances).unwrap();
        measure(&mut group, preset, 32, ITERATIONS, &mut engine);
    }
    group.finish();
}

fn blocked(c: &mut Criterion) {
    let mut group = c.benchmark_group("blocked, 1 iteration");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(3));
    for (preset, side) in [
        (Preset::Cifar, 32),
        (Preset::Skip, 224),
        (Preset::Wide, 224),
    ] {
        let mut engine =
            BlockedDip::new(&preset.spec(3), side, side, 1, Precision::Float32).unwrap();
        measure(&mut group, preset, side, 1, &mut engine);
    }
    group.finish();
}

criterion_group!(benches, lanes, blocked);
criterion_main!(benches);
