//! Each operation against the float64 reference, and chains against their nodes.

use super::super::tests::{Input, Node, check, uniform};
use super::*;
use crate::backend::cuda::driver::test_devices;
use crate::classifier::Op;

/// Both sides of a chain's first link, and that link.
fn pair(device: &Device, op: Binary, inputs: &[Input], output: &[usize]) -> Elementwise {
    let tensor = |i: usize| Tensor {
        dims: &inputs[i].dims,
        constant: inputs[i].constant.as_deref(),
    };
    let right = inputs[0].constant.is_some();
    let mut chain = Elementwise::new(device, tensor(right.into()), output).unwrap();
    chain
        .binary(device, op, right, tensor((!right).into()), output)
        .unwrap();
    chain
}

fn positive(x: f32) -> f32 {
    x.abs() + 0.25
}

/// Equal numbers are frequent among these.
fn halves(x: f32) -> f32 {
    (2.0 * x).round() / 2.0
}

fn away_from_zero(x: f32) -> f32 {
    x + 0.5f32.copysign(x)
}

#[test]
fn functions() {
    let dims = [1, 3, 5, 7];
    for device in test_devices() {
        for function in Function::EACH {
            let mut chain = Elementwise::new(
                &device,
                Tensor {
                    dims: &dims,
                    constant: None,
                },
                &dims,
            )
            .unwrap();
            chain.map(function).unwrap();
            let from: fn(f32) -> f32 = match function {
                Function::Log | Function::Sqrt => positive,
                Function::Reciprocal => away_from_zero,
                _ => |x| 5.0 * x,
            };
            let node = Node {
                op: Op::Map(function),
                inputs: vec![Input {
                    from,
                    ..Input::computed(&dims)
                }],
                output: dims.to_vec(),
                terms: 1,
            };
            check(&format!("{function:?}"), &device, &chain, &node);
        }
    }
}

#[test]
fn activations_and_their_slopes() {
    let functions = [
        Function::Relu,
        Function::LeakyRelu { alpha: 0.1 },
        Function::LeakyRelu { alpha: -0.5 },
        Function::Clip {
            low: -0.5,
            high: 1.5,
        },
        Function::Sigmoid,
        Function::Tanh,
        Function::Elu { alpha: 0.7 },
        Function::Exp,
        Function::Silu,
        Function::HardSwish,
    ];
    let n = 300;
    let x: Vec<f32> = uniform(n, 1).iter().map(|x| 4.0 * x).collect();
    let g = uniform(n, 2);
    for device in test_devices() {
        for function in functions {
            let argument = device.allocate_with(&x).unwrap();
            let value = device.allocate::<f32>(n).unwrap();
            apply(&device, function, argument.at(0), value.at(0), n).unwrap();
            let known = if function.derivative_from_value() {
                &value
            } else {
                &argument
            };
            let gradient = device.allocate_with(&g).unwrap();
            activation_slope(&device, function, known.at(0), gradient.at(0), n).unwrap();
            let (value, slope) = (
                value.download(0, n).unwrap(),
                gradient.download(0, n).unwrap(),
            );
            for i in 0..n {
                let at = f64::from(x[i]);
                let want = (
                    function.value(at),
                    function.derivative(at) * f64::from(g[i]),
                );
                // Eight roundings of numbers up to e^4; one less a square loses what they have in
                // common.
                let bound = 8.0 * 2f64.powi(-24);
                let error = (f64::from(value[i]) - want.0).abs();
                assert!(
                    error <= bound * want.0.abs().max(1.0),
                    "{function:?} at {at}"
                );
                let error = (f64::from(slope[i]) - want.1).abs();
                assert!(
                    error <= bound * want.1.abs().max(1.0),
                    "{function:?}' at {at}"
                );
            }
        }
    }
}

#[test]
fn pairs_broadcast_both_ways() {
    let shapes: [[&[usize]; 3]; 7] = [
        [&[1, 3, 4], &[1, 3, 4], &[1, 3, 4]],
        [&[1, 3, 1, 1], &[1, 3, 5, 2], &[1, 3, 5, 2]],
        [&[2, 1, 4], &[3, 1], &[2, 3, 4]],
        [&[], &[5], &[5]],
        [&[1, 1], &[1], &[1, 1]],
        [&[2, 3, 1, 5], &[2, 1, 4, 1], &[2, 3, 4, 5]],
        [&[2, 1, 3, 1, 2], &[1, 3, 1, 2, 1], &[2, 3, 3, 2, 2]],
    ];
    let all = [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Pow,
        Binary::Min,
        Binary::Max,
    ];
    let mut seed = 0;
    for device in test_devices() {
        for [a, b, output] in shapes {
            // A gradient sums as many terms.
            let terms = output.iter().product::<usize>();
            for op in all {
                let from: [fn(f32) -> f32; 2] = match op {
                    Binary::Pow => [positive, |x| 3.0 * x],
                    Binary::Div => [|x| x, away_from_zero],
                    Binary::Min | Binary::Max => [halves; 2],
                    _ => [|x| x; 2],
                };
                for constant in [None, Some(0), Some(1)] {
                    let side = |n: usize, dims: &[usize]| {
                        if constant != Some(n) {
                            return Input {
                                from: from[n],
                                ..Input::computed(dims)
                            };
                        }
                        let mut input = Input::random(dims, 1.0, seed);
                        let data = input.constant.iter_mut().flatten();
                        data.for_each(|x| *x = from[n](*x));
                        input
                    };
                    let inputs = vec![side(0, a), side(1, b)];
                    seed += 1;
                    let chain = pair(&device, op, &inputs, output);
                    let node = Node {
                        op: Op::Binary(op),
                        inputs,
                        output: output.to_vec(),
                        terms,
                    };
                    let name = format!("{op:?} of {a:?} and {b:?}, constant {constant:?}");
                    check(&name, &device, &chain, &node);
                }
            }
        }
    }
}

/// Sums that a thread, a warp, a small and a large block share.
#[test]
fn gradients_of_many_terms() {
    for device in test_devices() {
        for [rows, terms] in [[3, 15], [2, 16], [1, 2100], [1, 16_500]] {
            let (gate, dims) = ([rows, 1], [rows, terms]);
            let inputs = vec![Input::computed(&gate), Input::computed(&dims)];
            let chain = pair(&device, Binary::Mul, &inputs, &dims);
            let node = Node {
                op: Op::Binary(Binary::Mul),
                inputs,
                output: dims.to_vec(),
                terms,
            };
            check(&format!("{terms} terms"), &device, &chain, &node);
        }
    }
}

/// Whole numbers are the usual exponents, also of negative numbers and of zero.
#[test]
fn powers_of_anything() {
    let dims = [1, 2, 20];
    for device in test_devices() {
        for exponent in [0.0, 1.0, 2.0, 3.0] {
            let inputs = vec![
                Input {
                    from: halves,
                    ..Input::computed(&dims)
                },
                Input::constant(&[1], vec![exponent]),
            ];
            let chain = pair(&device, Binary::Pow, &inputs, &dims);
            let node = Node {
                op: Op::Binary(Binary::Pow),
                inputs,
                output: dims.to_vec(),
                terms: 1,
            };
            check(
                &format!("to the power of {exponent}"),
                &device,
                &chain,
                &node,
            );
        }
    }
}

#[test]
fn scales_and_shifts_by_channel() {
    for device in test_devices() {
        for dims in [
            &[1, 3, 5, 7][..],
            &[2, 4],
            &[1, 1, 9],
            &[2, 5, 1, 3],
            &[1, 6, 1],
        ] {
            let inputs = vec![
                Input::computed(dims),
                Input::random(&dims[1..2], 2.0, 3),
                Input::random(&dims[1..2], 1.0, 4),
            ];
            let constant = |i: usize| inputs[i].constant.as_deref().unwrap_or_default();
            let mut chain = Elementwise::new(
                &device,
                Tensor {
                    dims,
                    constant: None,
                },
                dims,
            )
            .unwrap();
            chain
                .scale_shift(&device, constant(1), constant(2), dims, None)
                .unwrap();
            assert_eq!(chain.constant_bytes(), 2 * 4 * dims[1]);
            let node = Node {
                op: Op::ScaleShift { activation: None },
                inputs,
                output: dims.to_vec(),
                terms: 2,
            };
            check(
                &format!("scale and shift of {dims:?}"),
                &device,
                &chain,
                &node,
            );
        }
    }
}

#[test]
fn a_full_chain_takes_no_more() {
    let (device, _) = Device::tally(0);
    let tensor = Tensor {
        dims: &[1, 3],
        constant: None,
    };
    let mut chain = Elementwise::new(&device, tensor, &[1, 3]).unwrap();
    for _ in 0..LINKS {
        chain.map(Function::Relu).unwrap();
    }
    assert!(chain.map(Function::Relu).is_err());
    assert!(
        chain
            .scale_shift(&device, &[1.0; 2], &[0.0; 3], &[1, 3], None)
            .is_err()
    );
}

/// Every struct of the kernels' sources has a mirror here of the same layout.
#[cfg(feature = "emulator")]
#[test]
fn arguments_mirror_the_kernels() {
    use crate::backend::cuda::driver::{assert_mirrored, mirror};
    let (_, function) = mirror::<FunctionArgs>();
    assert_mirrored(
        &[kernels::LAYOUTS],
        &[
            ("Function", function),
            mirror::<ChainLink>(),
            mirror::<Chain>(),
            mirror::<ChainArgs>(),
            mirror::<ChainSlopeArgs>(),
            mirror::<ChainSumArgs>(),
            mirror::<ActivationSlopeArgs>(),
        ],
    );
}

/// Every form of a chain and of its gradients, with each function whose arithmetic counts.
#[cfg(feature = "emulator")]
#[test]
fn kernels_do_the_work_that_is_said() {
    use crate::backend::cuda::driver::emulator::{Emulator, Options};
    let emulator = Emulator::new(Options::default()).unwrap();
    let device = emulator.device();
    let (dims, gate) = ([2, 3, 5], [3, 1]);
    let computed = |dims| Tensor {
        dims,
        constant: None,
    };
    let functions = [
        Function::HardSigmoid {
            alpha: 0.2,
            beta: 0.5,
        },
        Function::Silu,
        Function::Gelu,
        Function::GeluTanh,
        Function::Mish,
        Function::Neg,
    ];
    let images = 4;
    let x = device.allocate_with(&uniform(images * 30, 1)).unwrap();
    let numbers = device.allocate_with(&uniform(images * 30, 2)).unwrap();
    for function in functions {
        let mut chain = Elementwise::new(&device, computed(&dims), &dims).unwrap();
        let scales = [1.0; 3];
        chain
            .scale_shift(&device, &scales, &scales, &dims, Some(function))
            .unwrap();
        let operand = computed(&gate);
        chain
            .binary(&device, Binary::Mul, true, operand, &dims)
            .unwrap();
        let inputs = [x.at(0), numbers.at(0)];
        let output = device.allocate::<f32>(images * 30).unwrap();
        chain
            .forward(Forward {
                device: &device,
                images,
                inputs: &inputs,
                activation: None,
                output: output.at(0),
            })
            .unwrap();
        emulator.assert_work_is_done();
        for (input, accumulate) in [(0, false), (0, true), (1, true), (1, false)] {
            chain
                .backward(Backward {
                    device: &device,
                    images,
                    input,
                    inputs: &inputs,
                    output: output.at(0),
                    gradient: numbers.at(0),
                    to: output.at(0),
                    accumulate,
                    scratch: output.at(0),
                })
                .unwrap();
            emulator.assert_work_is_done();
        }
        activation_slope(&device, function, x.at(0), output.at(0), 30).unwrap();
        emulator.assert_work_is_done();
    }
}
