//! The engine as a whole: batches, threads, memory, real models.

use super::{Builder, images, run};
use crate::backend::cpu::classifier::CpuClassifier;
use crate::backend::host::HostImages;
use crate::backend::reference::ReferenceClassifier;
use crate::backend::{At, ClassifierEngine, ImageShape};
use crate::classifier::{
    Binary, Conv, Function, Graph, LoadOptions, Op, Pads, Pool, Reduction, Window,
};

/// A small network with every family of operations.
fn network() -> Graph {
    let mut b = Builder::new([3, 21, 17]);
    let window = |kernel, stride| Window {
        kernel: [kernel; 2],
        strides: [stride; 2],
        dilations: [1; 2],
        pads: Pads {
            top: kernel / 2,
            left: kernel / 2,
            bottom: kernel / 2,
            right: kernel / 2,
        },
    };
    let conv = |kernel, stride, group, activation| Conv {
        window: window(kernel, stride),
        group,
        activation,
    };
    let image = b.graph.input;
    let x = b.conv(conv(3, 2, 1, Some(Function::HardSwish)), image, 40, false);
    let x = b.conv(conv(5, 1, 40, Some(Function::Relu)), x, 40, false);
    let pool = Op::AveragePool(Pool {
        window: window(3, 1),
        count_include_pad: true,
    });
    let dims = b.dims(x);
    let pooled = b.node(pool, &[x], &dims);
    let mean = Op::Reduce {
        kind: Reduction::Mean,
        axes: vec![2, 3],
    };
    let gate = b.node(mean, &[pooled], &[1, 40, 1, 1]);
    let gate = b.map(Function::Sigmoid, gate);
    let x = b.node(Op::Binary(Binary::Mul), &[x, gate], &dims);
    let x = b.conv(conv(3, 2, 1, None), x, 48, true);
    let (height, width) = (b.dims(x)[2], b.dims(x)[3]);
    let tokens = b.reshape(x, &[1, 48, height * width]);
    let turn = Op::Transpose {
        perm: vec![0, 2, 1],
    };
    let turned = b.node(turn, &[tokens], &[1, height * width, 48]);
    let product = b.node(Op::MatMul, &[tokens, turned], &[1, 48, 48]);
    let attention = b.node(Op::Softmax { axis: 2 }, &[product], &[1, 48, 48]);
    let flat = b.flat(attention);
    let (weight, bias) = (b.random(&[1000, 48 * 48], 0.1), b.random(&[1000], 0.1));
    let dense = Op::Gemm {
        activation: Some(Function::Gelu),
    };
    let logits = b.node(dense, &[flat, weight, bias], &[1, 1000]);
    b.finish(logits)
}

fn on_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap()
        .install(f)
}

#[test]
fn results_have_the_same_bits_in_any_batch_and_on_any_number_of_threads() {
    let graph = network();
    super::check("network", &graph, 3000);
    let count = 7;
    let images = images(&graph, count, 3);
    let want = on_threads(1, || {
        run(&mut CpuClassifier::new(&graph, 1).unwrap(), &images, count)
    });
    for threads in [1, 2, 3, 5] {
        for batch in [1, 2, 16] {
            let got = on_threads(threads, || {
                run(
                    &mut CpuClassifier::new(&graph, batch).unwrap(),
                    &images,
                    count,
                )
            });
            assert!(got == want, "{threads} threads, batch {batch}");
        }
    }
    // Alone, and after others.
    let mut engine = CpuClassifier::new(&graph, 4).unwrap();
    run(&mut engine, &images, count);
    let last = engine.logits(&[At::new(&images, count - 1)]).unwrap();
    assert_eq!(last, want[0][(count - 1) * 1000..]);
}

#[test]
fn memory_grows_with_the_first_calls_only() {
    let graph = network();
    let images = images(&graph, 6, 3);
    let mut engine = CpuClassifier::new(&graph, 4).unwrap();
    let constants = engine.bytes();
    run(&mut engine, &images, 4);
    let most = engine.bytes();
    assert!(most > constants);
    for count in [6, 1, 4] {
        run(&mut engine, &images, count);
        assert_eq!(engine.bytes(), most);
    }
}

#[test]
fn images_that_do_not_fit_are_refused() {
    let graph = network();
    let mut engine = CpuClassifier::new(&graph, 4).unwrap();
    let small = ImageShape {
        channels: 3,
        height: 20,
        width: 17,
    };
    let other = HostImages::zeroed(small, 1).unwrap();
    let message = engine
        .logits(&[At::new(&other, 0)])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("3×20×17") && message.contains("3×21×17"),
        "{message}"
    );
    let images = images(&graph, 2, 3);
    let mut out = HostImages::zeroed(graph.input_shape(), 2).unwrap();
    let all = [At::new(&images, 0), At::new(&images, 1)];
    let mut loss = |_: usize, _: &[f32], _: &mut [f32]| {};
    assert!(engine.gradient(&all, &mut loss, &mut out, 1).is_err());
    assert!(engine.gradient(&all, &mut loss, &mut out, 0).is_ok());
    assert!(engine.logits(&[]).unwrap().is_empty());
}

/// On real models: the reference's logits and gradient, one picture.
#[test]
fn real_models_agree_with_the_reference() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/models");
    for name in ["cifar-resnet20", "cifar-resnet56", "efficientnet-lite0"] {
        let path = std::path::Path::new(folder).join(format!("{name}.onnx"));
        if !path.exists() {
            println!("skipped: no {}", path.display());
            continue;
        }
        let graph = Graph::load(&path, &LoadOptions::default()).unwrap();
        let images = images(&graph, 2, 11);
        let mut engine = CpuClassifier::new(&graph, 2).unwrap();
        let [logits, _, gradients] = run(&mut engine, &images, 2);
        let pixels: Vec<f64> = images.image(1).iter().map(|&x| x.into()).collect();
        let (want, want_gradient) = ReferenceClassifier::new(&graph)
            .gradient_f64(&pixels, |logits, by| {
                for (by, x) in by.iter_mut().zip(super::uniform(logits.len(), 77)) {
                    *by = x.into();
                }
            })
            .unwrap();
        let relative = |got: &[f32], want: &[f64]| {
            let pairs = got.iter().zip(want);
            let error: f64 = pairs.map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
            (error / want.iter().map(|w| w * w).sum::<f64>()).sqrt()
        };
        let (logits_error, gradient_error) = (
            relative(&logits[logits.len() / 2..], &want),
            relative(&gradients[gradients.len() / 2..], &want_gradient),
        );
        println!("{name}: logits {logits_error:.1e}, gradient {gradient_error:.1e}");
        assert!(logits_error < 1e-5, "{name}: logits {logits_error:.1e}");
        // An activation within rounding of a kink takes the other side's slope; ReLU6 has two kinks.
        let bound = match name {
            "efficientnet-lite0" => 2e-3,
            _ => 1e-3,
        };
        assert!(
            gradient_error < bound,
            "{name}: gradient {gradient_error:.1e}"
        );
        if name == "efficientnet-lite0" {
            // Two images in flight, with everything that gradients need.
            assert!(engine.bytes() < 100_000_000, "{} bytes", engine.bytes());
        }
    }
}
