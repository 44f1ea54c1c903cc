//! Convolutions against the float64 reference.

use std::ops::Range;

use super::super::tests::{Input, Node, check};
use super::*;
use crate::backend::cuda::driver::test_devices;
use crate::classifier::{Function, Op, Pads, Window};

const NO_PADS: Pads = Pads {
    top: 0,
    left: 0,
    bottom: 0,
    right: 0,
};
const UNEVEN: Pads = Pads {
    top: 1,
    left: 0,
    bottom: 2,
    right: 1,
};

fn all(n: usize) -> Pads {
    Pads {
        top: n,
        left: n,
        bottom: n,
        right: n,
    }
}

fn window(kernel: [usize; 2], strides: [usize; 2], dilations: [usize; 2], pads: Pads) -> Window {
    Window {
        kernel,
        strides,
        dilations,
        pads,
    }
}

fn square(size: usize, stride: usize, pad: usize) -> Window {
    window([size, size], [stride, stride], [1, 1], all(pad))
}

fn check_conv(conv: &Conv, dims: [usize; 4], outputs: usize, residual: bool) {
    check_in_tiles(conv, dims, outputs, residual, 0..3);
}

/// From pictures `[k, c, h, w]` to so many channels, on every device, with the best of some tiles.
fn check_in_tiles(
    conv: &Conv,
    dims: [usize; 4],
    outputs: usize,
    residual: bool,
    tiles: Range<usize>,
) {
    let Window {
        kernel,
        strides,
        dilations,
        pads,
    } = conv.window;
    let [pictures, inputs, ..] = dims;
    let length = |axis: usize, pads: usize| {
        (dims[axis + 2] + pads - dilations[axis] * (kernel[axis] - 1) - 1) / strides[axis] + 1
    };
    let output = [
        pictures,
        outputs,
        length(0, pads.top + pads.bottom),
        length(1, pads.left + pads.right),
    ];
    let taps = kernel[0] * kernel[1];
    let terms = inputs.max(outputs) / conv.group * taps;
    let of_group = [outputs, inputs / conv.group, kernel[0], kernel[1]];
    let weight = Input::random(&of_group, 1.0 / (terms as f32).sqrt(), 5);
    let bias = Input::random(&[outputs], 1.0, 6);
    let constant = |input: &Input| input.constant.clone().unwrap();
    for device in test_devices() {
        let (weights, biases) = (constant(&weight), constant(&bias));
        let pictures = [&dims[..], &output[..]];
        let mut operation =
            Convolution::new(&device, conv, pictures, &weights, &biases, residual).unwrap();
        for pass in [&mut operation.forward, &mut operation.backward] {
            if let Way::Product(kernels) = &mut pass.way {
                *kernels = &kernels[tiles.clone()];
            }
        }
        let mut inputs = vec![
            Input::computed(&dims),
            Input::constant(&of_group, weights),
            Input::constant(&[outputs], biases),
        ];
        if residual {
            inputs.push(Input::computed(&output));
        }
        let node = Node {
            op: Op::Conv(conv.clone()),
            inputs,
            output: output.to_vec(),
            terms,
        };
        check(
            &format!("{conv:?} of {dims:?} to {outputs}"),
            &device,
            &operation,
            &node,
        );
    }
}

fn plain(window: Window, group: usize) -> Conv {
    Conv {
        window,
        group,
        activation: None,
    }
}

#[test]
fn windows_and_groups() {
    let windows = [
        square(1, 1, 0),
        square(3, 1, 1),
        square(3, 2, 1),
        window([5, 3], [1, 2], [1, 1], UNEVEN),
        window([3, 3], [1, 1], [2, 2], all(2)),
        square(4, 4, 1),
        // The last rows and columns are not read.
        square(1, 2, 0),
        // Patches.
        square(4, 4, 0),
        // More padding than the kernel reaches over.
        window([2, 2], [1, 1], [1, 1], all(3)),
        // More between windows than they cover.
        window([2, 1], [3, 3], [1, 2], NO_PADS),
    ];
    for window in windows {
        for (inputs, outputs, group) in [
            (1, 1, 1),
            (3, 16, 1),
            (7, 5, 1),
            (6, 6, 6),
            (3, 6, 3),
            (8, 12, 4),
            (36, 40, 2),
        ] {
            check_conv(&plain(window, group), [1, inputs, 9, 7], outputs, false);
        }
    }
}

#[test]
fn depthwise() {
    let windows = [
        square(3, 1, 1),
        square(3, 2, 1),
        square(5, 1, 2),
        square(5, 2, 2),
        window([5, 5], [2, 2], [1, 1], UNEVEN),
        square(3, 1, 0),
        square(3, 1, 4),
        square(7, 1, 3),
        square(5, 3, 2),
        window([3, 3], [1, 2], [1, 1], all(1)),
        window([3, 3], [2, 2], [3, 2], all(3)),
    ];
    for window in windows {
        for [height, width] in [[7, 7], [9, 14], [5, 33]] {
            check_conv(&plain(window, 3), [2, 3, height, width], 3, false);
        }
    }
    for size in [3, 5] {
        check_conv(
            &plain(square(size, 1, size / 2), 70),
            [1, 70, 1, 1],
            70,
            true,
        );
    }
}

#[test]
fn residuals_activations_and_several_pictures() {
    for activation in [
        Function::Relu,
        Function::Clip {
            low: 0.0,
            high: 0.8,
        },
        Function::LeakyRelu { alpha: 0.1 },
        Function::Sigmoid,
        Function::Silu,
        Function::Gelu,
        Function::HardSwish,
    ] {
        for (dims, group) in [
            ([1, 18, 5, 6], 1),
            ([1, 18, 1, 1], 18),
            ([2, 6, 4, 3], 3),
            ([3, 4, 3, 3], 4),
        ] {
            let conv = Conv {
                activation: Some(activation),
                ..plain(square(3, 1, 1), group)
            };
            check_conv(&conv, dims, dims[1], true);
        }
    }
    let conv = Conv {
        activation: Some(Function::Relu),
        ..plain(square(1, 1, 0), 1)
    };
    check_conv(&conv, [2, 18, 5, 7], 21, true);
}

/// More rows, columns and terms than any tile has, and fewer; each kind of tile, which the three images of a
/// check and the one alone share.
#[test]
fn tiles_of_all_kinds() {
    for tile in 0..3 {
        for (window, dims, outputs) in [
            (square(1, 1, 0), [1, 70, 11, 13], 68),
            (square(1, 1, 0), [1, 5, 3, 7], 9),
            (square(3, 1, 1), [1, 9, 11, 13], 68),
            (square(3, 2, 1), [1, 12, 19, 17], 34),
        ] {
            check_in_tiles(&plain(window, 1), dims, outputs, true, tile..tile + 1);
        }
        let mut conv = plain(square(3, 1, 1), 2);
        conv.activation = Some(Function::Silu);
        check_in_tiles(&conv, [2, 6, 5, 4], 10, true, tile..tile + 1);
    }
}

/// The best tile depends on the number of images, an image's result does not.
#[test]
fn an_element_has_the_same_bits_in_every_tile() {
    use super::super::tests::uniform;
    let (dims, outputs) = ([1, 37, 7, 9], 70);
    let output = [1, outputs, 7, 9];
    for window in [square(1, 1, 0), square(3, 1, 1)] {
        let conv = plain(window, 1);
        let taps = window.kernel[0] * window.kernel[1];
        let weight = uniform(outputs * dims[1] * taps, 1);
        for device in test_devices() {
            let x = device
                .allocate_with(&uniform(dims.iter().product(), 2))
                .unwrap();
            let y = device.allocate::<f32>(output.iter().product()).unwrap();
            let pictures = [&dims[..], &output[..]];
            let mut operation = Convolution::new(
                &device,
                &conv,
                pictures,
                &weight,
                &vec![0.5; outputs],
                false,
            )
            .unwrap();
            let Way::Product(kernels) = operation.forward.way else {
                panic!("a convolution of groups of channels is a product")
            };
            let results: Vec<Vec<f32>> = (kernels.chunks(1))
                .map(|kernel| {
                    operation.forward.way = Way::Product(kernel);
                    let pass = Forward {
                        device: &device,
                        images: 1,
                        inputs: &[x.at(0)],
                        activation: None,
                        output: y.at(0),
                    };
                    operation.forward(pass).unwrap();
                    y.download(0, y.len()).unwrap()
                })
                .collect();
            assert!(results.iter().all(|result| *result == results[0]));
        }
    }
}

#[test]
fn shapes_that_are_too_large_are_refused() {
    let huge = 1 << 30;
    let [padded, sparse, spread] = [
        window([1, 1], [1, 1], [1, 1], all(huge)),
        window([1, 1], [huge, huge], [1, 1], NO_PADS),
        window([2, 1], [1, 1], [huge, 1], all(huge)),
    ];
    for device in test_devices() {
        let refused = |window, dims: [usize; 4]| {
            let weight = vec![1.0; 2];
            operation(
                &device,
                &plain(window, 1),
                &dims,
                &dims,
                &weight,
                &[0.0],
                false,
            )
            .is_err()
        };
        assert!(!refused(square(1, 1, 0), [1, 1, 3, 3]));
        assert!(refused(padded, [1, 1, 3, 3]));
        assert!(refused(sparse, [1, 1, 3, 3]));
        assert!(refused(spread, [1, 1, 3, 3]));
        assert!(refused(square(1, 1, 0), [1, 1, 1 << 16, 1 << 16]));
        // A class of the gradient to each of so many pixels of a square.
        assert!(refused(square(1, 300, 0), [1, 1, 300, 300]));
    }
}

/// Every struct of the kernels' sources has a mirror here of the same layout.
#[cfg(feature = "emulator")]
#[test]
fn structs_have_the_kernels_layout() {
    use super::super::product::ResidualArgs;
    use crate::backend::cuda::driver::{assert_mirrored, mirror};
    let mirrors = [
        mirror::<Ending>(),
        mirror::<Tap>(),
        mirror::<TapClass>(),
        mirror::<Gather>(),
        mirror::<ClassifierConvArgs>(),
        mirror::<ResidualArgs>(),
        mirror::<DepthwiseArgs>(),
    ];
    assert_mirrored(
        &[classifier_conv::LAYOUTS, classifier_depthwise::LAYOUTS],
        &mirrors,
    );
}
