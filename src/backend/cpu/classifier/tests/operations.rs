//! Every operation, at odd sizes, in both layouts, forward and backward.

use super::{Builder, both_layouts, check};
use crate::classifier::{Binary, Conv, Function, Op, PadMode, Pads, Pool, Reduction, Window};

const NO_PADS: Pads = Pads {
    top: 0,
    left: 0,
    bottom: 0,
    right: 0,
};

fn window(kernel: [usize; 2], strides: [usize; 2], dilations: [usize; 2], pads: Pads) -> Window {
    Window {
        kernel,
        strides,
        dilations,
        pads,
    }
}

fn all(n: usize) -> Pads {
    Pads {
        top: n,
        left: n,
        bottom: n,
        right: n,
    }
}

const UNEVEN: Pads = Pads {
    top: 1,
    left: 0,
    bottom: 2,
    right: 1,
};

#[test]
fn convolutions() {
    let windows = [
        window([1, 1], [1, 1], [1, 1], NO_PADS),
        window([3, 3], [1, 1], [1, 1], all(1)),
        window([3, 3], [2, 2], [1, 1], all(1)),
        window([5, 3], [1, 2], [1, 1], UNEVEN),
        window([3, 3], [1, 1], [2, 2], all(2)),
        window([4, 4], [4, 4], [1, 1], all(1)),
        // Patches.
        window([4, 4], [4, 4], [1, 1], NO_PADS),
        window([8, 2], [8, 2], [1, 1], NO_PADS),
    ];
    let channels = [
        (1, 1, 1),
        (3, 16, 1),
        (17, 33, 1),
        (20, 20, 20),
        (12, 24, 12),
        (8, 12, 4),
        (15, 21, 3),
        (48, 96, 2),
        (32, 32, 8),
    ];
    for window in windows {
        for (inputs, outputs, group) in channels {
            let conv = Conv {
                window,
                group,
                activation: Some(Function::Relu),
            };
            let terms = inputs / group * window.kernel[0] * window.kernel[1];
            both_layouts(
                &format!("{conv:?} to {outputs}"),
                [inputs, 9, 7],
                terms,
                |b, x| b.conv(conv.clone(), x, outputs, false),
            );
        }
    }
}

#[test]
fn convolutions_with_residuals_activations_and_several_pictures() {
    for activation in [
        None,
        Some(Function::Relu),
        Some(Function::Clip {
            low: 0.0,
            high: 0.8,
        }),
        Some(Function::LeakyRelu { alpha: 0.1 }),
        Some(Function::Sigmoid),
        Some(Function::Silu),
        Some(Function::Gelu),
        Some(Function::HardSwish),
    ] {
        for (dims, group) in [([18, 5, 6], 1), ([18, 1, 1], 18), ([6, 4, 3], 3)] {
            let conv = Conv {
                window: window([3, 3], [1, 1], [1, 1], all(1)),
                group,
                activation,
            };
            both_layouts(&format!("{conv:?}"), dims, 9 * dims[0], |b, x| {
                b.conv(conv.clone(), x, dims[0], true)
            });
            both_layouts(
                &format!("two pictures, {conv:?}"),
                [36, 4, 3],
                162,
                |b, x| {
                    let x = b.reshape(x, &[2, 18, 4, 3]);
                    b.conv(
                        Conv {
                            group: 6,
                            ..conv.clone()
                        },
                        x,
                        18,
                        true,
                    )
                },
            );
        }
    }
}

#[test]
fn pools() {
    for (kernel, strides, dilations, pads, dims, output) in [
        ([2, 2], [2, 2], [1, 1], NO_PADS, [17, 9, 7], [4, 3]),
        (
            [3, 3],
            [2, 2],
            [1, 1],
            Pads {
                top: 1,
                left: 1,
                bottom: 1,
                right: 1,
            },
            [5, 9, 7],
            [5, 4],
        ),
        // The last window reaches beyond the padding.
        (
            [3, 2],
            [2, 2],
            [1, 1],
            Pads {
                bottom: 0,
                ..UNEVEN
            },
            [3, 7, 6],
            [4, 3],
        ),
        ([2, 3], [1, 1], [2, 1], NO_PADS, [1, 5, 5], [3, 3]),
        ([1, 1], [1, 1], [1, 1], NO_PADS, [2, 1, 1], [1, 1]),
    ] {
        for count_include_pad in [false, true] {
            let pool = Pool {
                window: window(kernel, strides, dilations, pads),
                count_include_pad,
            };
            for op in [Op::MaxPool(pool), Op::AveragePool(pool)] {
                let output = [1, dims[0], output[0], output[1]];
                both_layouts(&format!("{op:?}"), dims, 9, |b, x| {
                    b.node(op.clone(), &[x], &output)
                });
            }
        }
    }
}

#[test]
fn functions() {
    for function in [
        Function::Relu,
        Function::Sigmoid,
        Function::HardSigmoid {
            alpha: 0.2,
            beta: 0.5,
        },
        Function::Gelu,
        Function::Tanh,
        Function::Softplus,
        Function::Exp,
        Function::Elu { alpha: 0.5 },
        Function::Abs,
    ] {
        both_layouts(&format!("{function:?}"), [19, 5, 3], 9, |b, x| {
            b.map(function, x)
        });
    }
    for function in [Function::Log, Function::Sqrt, Function::Reciprocal] {
        both_layouts(&format!("{function:?}"), [3, 5, 3], 9, |b, x| {
            // Above 0.4.
            let x = b.map(Function::Sigmoid, x);
            b.map(function, x)
        });
    }
}

#[test]
fn scale_and_shift() {
    for dims in [[19, 5, 3], [1, 1, 1], [32, 2, 2]] {
        for activation in [None, Some(Function::Relu), Some(Function::Silu)] {
            both_layouts(&format!("scale, {activation:?}"), dims, 2, |b, x| {
                let constants = [b.random(&[dims[0]], 1.0), b.random(&[dims[0]], 1.0)];
                let inputs = [x, constants[0], constants[1]];
                let dims = b.dims(x);
                b.node(Op::ScaleShift { activation }, &inputs, &dims)
            });
            both_layouts(&format!("scale rows, {activation:?}"), dims, 2, |b, x| {
                let n = dims.iter().product();
                let x = b.reshape(x, &[1, n]);
                let constants = [b.random(&[n], 1.0), b.random(&[n], 1.0)];
                let inputs = [x, constants[0], constants[1]];
                b.node(Op::ScaleShift { activation }, &inputs, &[1, n])
            });
        }
    }
}

#[test]
fn reductions() {
    for kind in [
        Reduction::Mean,
        Reduction::Sum,
        Reduction::Max,
        Reduction::L2,
    ] {
        for axes in [
            vec![2, 3],
            vec![1],
            vec![3],
            vec![2],
            vec![1, 3],
            vec![0, 2],
            vec![1, 2, 3],
            vec![0],
        ] {
            for keep in [false, true] {
                for dims in [[18, 5, 3], [16, 7, 9], [1, 1, 1]] {
                    let op = Op::Reduce {
                        kind,
                        axes: axes.clone(),
                    };
                    both_layouts(&format!("{op:?}, keep {keep}"), dims, 300, |b, x| {
                        let output: Vec<usize> = (b.dims(x).into_iter().enumerate())
                            .filter_map(|(axis, len)| match (axes.contains(&axis), keep) {
                                (false, _) => Some(len),
                                (true, true) => Some(1),
                                (true, false) => None,
                            })
                            .collect();
                        b.node(op.clone(), &[x], &output)
                    });
                }
            }
        }
    }
}

#[test]
fn normalizations() {
    for axis in 1..4 {
        for dims in [[18, 5, 35], [3, 2, 17], [4, 1, 16], [1, 3, 130]] {
            let op = Op::Normalize {
                axis,
                epsilon: 1e-2,
            };
            both_layouts(&format!("{op:?}"), dims, 40, |b, x| {
                let dims = b.dims(x);
                b.node(op.clone(), &[x], &dims)
            });
        }
    }
}

#[test]
fn softmax() {
    for axis in 0..4 {
        for op in [Op::Softmax { axis }, Op::LogSoftmax { axis }] {
            for dims in [[18, 5, 35], [1, 1, 1], [3, 2, 17]] {
                both_layouts(&format!("{op:?}"), dims, 40, |b, x| {
                    let dims = b.dims(x);
                    b.node(op.clone(), &[x], &dims)
                });
            }
        }
    }
}

#[test]
fn moves() {
    let cases: [(&str, [usize; 3], Op, &[usize]); 17] = [
        (
            "transpose",
            [18, 5, 3],
            Op::Transpose {
                perm: vec![0, 2, 3, 1],
            },
            &[1, 5, 3, 18],
        ),
        (
            "transpose",
            [18, 5, 3],
            Op::Transpose {
                perm: vec![0, 1, 3, 2],
            },
            &[1, 18, 3, 5],
        ),
        (
            "transpose",
            [18, 5, 3],
            Op::Transpose {
                perm: vec![3, 2, 1, 0],
            },
            &[3, 5, 18, 1],
        ),
        (
            "slice",
            [20, 5, 4],
            Op::Slice {
                starts: vec![0, 0, 1, 3],
                steps: vec![1, 1, 2, -1],
            },
            &[1, 20, 2, 4],
        ),
        (
            "slice",
            [20, 5, 4],
            Op::Slice {
                starts: vec![0, 3, 0, 0],
                steps: vec![1, 2, 1, 1],
            },
            &[1, 8, 5, 4],
        ),
        (
            "slice",
            [40, 5, 4],
            Op::Slice {
                starts: vec![0, 16, 0, 0],
                steps: vec![1, 1, 1, 1],
            },
            &[1, 24, 5, 4],
        ),
        (
            "slice",
            [40, 5, 4],
            Op::Slice {
                starts: vec![0, 16, 1, 0],
                steps: vec![1, 1, 1, 1],
            },
            &[1, 16, 3, 4],
        ),
        (
            "pad",
            [18, 5, 3],
            Op::Pad {
                before: vec![0, 0, 1, 2],
                mode: PadMode::Constant(0.5),
            },
            &[1, 18, 8, 6],
        ),
        (
            "pad",
            [18, 5, 3],
            Op::Pad {
                before: vec![0, 0, 3, 2],
                mode: PadMode::Reflect,
            },
            &[1, 18, 12, 6],
        ),
        (
            "pad",
            [18, 5, 3],
            Op::Pad {
                before: vec![0, 0, 1, 4],
                mode: PadMode::Edge,
            },
            &[1, 18, 7, 9],
        ),
        (
            "pad",
            [4, 5, 3],
            Op::Pad {
                before: vec![1, 2, 0, 0],
                mode: PadMode::Constant(-1.0),
            },
            &[3, 7, 5, 3],
        ),
        ("expand", [18, 1, 3], Op::Expand, &[2, 18, 4, 3]),
        ("expand", [1, 4, 3], Op::Expand, &[1, 5, 4, 3]),
        (
            "gather",
            [18, 5, 3],
            Op::Gather {
                axis: 2,
                indices: vec![4, 0, 0, 1, 1, 2],
            },
            &[1, 18, 6, 3],
        ),
        (
            "gather",
            [18, 5, 3],
            Op::Gather {
                axis: 1,
                indices: vec![17, 2, 2],
            },
            &[1, 3, 5, 3],
        ),
        (
            "gather",
            [18, 5, 3],
            Op::Gather {
                axis: 3,
                indices: vec![1],
            },
            &[1, 18, 5],
        ),
        (
            "gather",
            [18, 5, 3],
            Op::Gather {
                axis: 2,
                indices: vec![1, 0, 2, 4],
            },
            &[1, 18, 2, 2, 3],
        ),
    ];
    for (name, dims, op, output) in cases {
        both_layouts(&format!("{name} {op:?}"), dims, 8, |b, x| {
            b.node(op.clone(), &[x], output)
        });
    }
}

#[test]
fn concatenations() {
    for (channels, axis) in [(16, 1), (18, 1), (32, 1), (18, 2), (5, 3)] {
        both_layouts(
            &format!("concat on {axis}"),
            [channels, 5, 3],
            99,
            |b, x| {
                let other = b.pointwise(x, channels);
                let constant = b.random(&[1, channels, 5, 3], 1.0);
                let mut dims = b.dims(x);
                dims[axis] *= 4;
                let inputs = [x, other, constant, x];
                b.node(Op::Concat { axis }, &inputs, &dims)
            },
        );
    }
}

#[test]
fn linear_layers() {
    for activation in [None, Some(Function::Relu), Some(Function::Gelu)] {
        for (dims, outputs) in [
            ([18, 5, 3], 7),
            ([3, 1, 40], 130),
            ([1, 1, 1], 1),
            ([4, 13, 17], 20),
        ] {
            for residual in [false, true] {
                let name = format!("gemm to {outputs}, {activation:?}, residual {residual}");
                both_layouts(&name, dims, 60, |b, x| {
                    let [channels, height, width] = dims;
                    let weight = b.random(&[outputs, width], 1.0 / (width as f32).sqrt());
                    let bias = b.random(&[outputs], 1.0);
                    let to = [1, channels, height, outputs];
                    let plain = Op::Gemm { activation: None };
                    let mut inputs = vec![x, weight, bias];
                    if residual {
                        let other = b.node(plain, &inputs, &to);
                        inputs.push(other);
                    }
                    b.node(Op::Gemm { activation }, &inputs, &to)
                });
            }
        }
    }
}

#[test]
fn matrix_products() {
    both_layouts("attention", [6, 7, 20], 200, |b, x| {
        let tokens = b.reshape(x, &[2, 3, 7, 20]);
        let swap = Op::Transpose {
            perm: vec![0, 1, 3, 2],
        };
        let turned = b.node(swap, &[tokens], &[2, 3, 20, 7]);
        let weights = b.node(Op::MatMul, &[tokens, turned], &[2, 3, 7, 7]);
        let weights = b.node(Op::Softmax { axis: 3 }, &[weights], &[2, 3, 7, 7]);
        b.node(Op::MatMul, &[weights, tokens], &[2, 3, 7, 20])
    });
    both_layouts("broadcast", [6, 7, 20], 200, |b, x| {
        let left = b.reshape(x, &[2, 3, 7, 20]);
        let right = b.node(
            Op::Slice {
                starts: vec![0, 2, 0, 0],
                steps: vec![1; 4],
            },
            &[x],
            &[1, 1, 7, 20],
        );
        let right = b.reshape(right, &[1, 20, 7]);
        b.node(Op::MatMul, &[left, right], &[2, 3, 7, 7])
    });
    both_layouts("constant", [3, 50, 20], 200, |b, x| {
        let left = b.random(&[13, 50], 0.2);
        let product = b.node(Op::MatMul, &[left, x], &[1, 3, 13, 20]);
        let right = b.random(&[1, 3, 20, 33], 0.2);
        b.node(Op::MatMul, &[product, right], &[1, 3, 13, 33])
    });
}

#[test]
fn a_value_that_depends_on_no_pixel_has_no_gradient() {
    let mut b = Builder::new([3, 2, 2]);
    let image = b.graph.input;
    let zero = b.constant(&[], vec![0.0]);
    let nothing = b.node(Op::Binary(Binary::Mul), &[image, zero], &[1, 3, 2, 2]);
    check("times nothing", &b.finish(nothing), 1);
    let mut b = Builder::new([3, 2, 2]);
    let image = b.graph.input;
    check(
        "the image itself",
        &{
            b.graph.output = image;
            b.finish(image)
        },
        1,
    );
}
