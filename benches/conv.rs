//! Convolutions of the DIP networks and of image classifiers: time, GFLOP/s and share of the
//! processor's peak. `cargo bench --bench conv [FILTER]`.

use std::hint::black_box;

use backstitch::backend::cpu::blocked::{
    Activation, ConvShape, DepthwiseWeights, Destination, Epilogue, PackedWeights, Padding, Source,
    conv_backward_data, conv_backward_weights, conv_forward, depthwise_forward, layout,
};
use backstitch::backend::cpu::peak::peak_gflops;
use backstitch::backend::cpu::simd::{Lanes, zeroed};
use criterion::Criterion;

/// Name and shape of each convolution.
fn shapes() -> Vec<(&'static str, ConvShape)> {
    let reflect = |shape| ConvShape {
        padding: Padding::Reflect,
        ..shape
    };
    let stride2 = |shape| ConvShape {
        stride: [2, 2],
        ..shape
    };
    let same = ConvShape::same;
    vec![
        ("wide_up_132_128_224", reflect(same(132, 128, 3, [224; 2]))),
        (
            "wide_down_128_128_112",
            reflect(stride2(same(128, 128, 3, [112; 2]))),
        ),
        ("wide_mid_128_128_28", reflect(same(128, 128, 3, [28; 2]))),
        ("wide_fuse_128_128_224", same(128, 128, 1, [224; 2])),
        ("skip_up_36_16_224", reflect(same(36, 16, 3, [224; 2]))),
        ("skip_fuse_16_16_224", same(16, 16, 1, [224; 2])),
        ("skip_branch_32_4_224", same(32, 4, 1, [224; 2])),
        ("stem_3_32_224", stride2(same(3, 32, 3, [224; 2]))),
        ("expand_24_144_56", same(24, 144, 1, [56; 2])),
        ("project_672_112_14", same(672, 112, 1, [14; 2])),
        ("head_320_1280_7", same(320, 1280, 1, [7; 2])),
        ("resnet_16_16_32", same(16, 16, 3, [32; 2])),
        ("resnet_32_32_16", same(32, 32, 3, [16; 2])),
        ("resnet_64_64_8", same(64, 64, 3, [8; 2])),
    ]
}

/// Measures `run` and prints its rate.
fn measure(criterion: &mut Criterion, name: &str, flops: f64, mut run: impl FnMut()) {
    let mut best = f64::INFINITY;
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|rounds| {
            let mut total = std::time::Duration::ZERO;
            for _ in 0..rounds {
                let start = std::time::Instant::now();
                run();
                let time = start.elapsed();
                best = best.min(time.as_secs_f64());
                total += time;
            }
            total
        });
    });
    if best.is_finite() {
        let rate = flops / best / 1e9;
        println!(
            "{name}: best {:.3} ms, {rate:.0} GFLOP/s, {:.0}% of peak",
            best * 1e3,
            100.0 * rate / peak_gflops()
        );
    }
}

fn lanes(n: usize) -> Vec<Lanes> {
    let mut lanes = zeroed(n);
    for (i, lanes) in lanes.iter_mut().enumerate() {
        lanes.0 = std::array::from_fn(|lane| ((i * 16 + lane) % 251) as f32 / 251.0 - 0.5);
    }
    lanes
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(100))
        .measurement_time(std::time::Duration::from_millis(500))
        .configure_from_args();
    println!("peak: {:.0} GFLOP/s", peak_gflops());
    for (name, shape) in shapes() {
        let [height, width] = shape.output();
        let input = lanes(layout::groups(shape.in_channels) * shape.input[0] * shape.input[1]);
        let mut output = lanes(layout::groups(shape.out_channels) * height * width);
        let mut gradient = input.clone();
        let sources = [Source::plain(&input, shape.in_channels)];
        let oihw = vec![0.1; shape.out_channels * shape.in_channels * shape.taps()];
        let channels = [shape.in_channels];
        let mut forward = PackedWeights::forward(&shape, &channels, &oihw).expect("shape");
        let backward = PackedWeights::backward(&shape, &channels, &oihw).expect("shape");
        let epilogue = Epilogue {
            activation: Activation::Relu,
            ..Epilogue::default()
        };
        measure(
            &mut criterion,
            &format!("{name}/forward"),
            shape.flops(),
            || {
                conv_forward(&shape, 1, &sources, &forward, &epilogue, &mut output).expect("shape");
                black_box(&output);
            },
        );
        measure(
            &mut criterion,
            &format!("{name}/backward_data"),
            shape.flops(),
            || {
                let mut to = [Destination::new(&mut gradient, shape.in_channels)];
                conv_backward_data(&shape, 1, &output, &backward, &mut to).expect("shape");
            },
        );
        black_box(&gradient);
        let mut bias = zeroed(layout::groups(shape.out_channels));
        let mut workspace = Vec::new();
        measure(
            &mut criterion,
            &format!("{name}/backward_weights"),
            shape.flops(),
            || {
                conv_backward_weights(
                    &shape,
                    1,
                    &sources,
                    &output,
                    &mut forward,
                    &mut bias,
                    &mut workspace,
                )
                .expect("shape");
            },
        );
    }
    let shape = ConvShape::same(144, 144, 3, [56; 2]);
    let input = lanes(9 * 56 * 56);
    let mut output = input.clone();
    let weights = DepthwiseWeights::new(&shape, &[0.1; 144 * 9]).expect("shape");
    let flops = shape.flops() / 144.0;
    measure(&mut criterion, "depthwise_144_56/forward", flops, || {
        let source = Source::plain(&input, 144);
        let epilogue = Epilogue::default();
        depthwise_forward(&shape, 1, source, &weights, &epilogue, &mut output).expect("shape");
        black_box(&output);
    });
    criterion.final_summary();
}
