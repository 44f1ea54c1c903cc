//! Matrix products and linear layers against the float64 reference.

use std::ops::Range;

use super::super::gemm::Gemm;
use super::super::tests::{Input, Node, check};
use super::*;
use crate::backend::cuda::driver::test_devices;
use crate::classifier::{Function, Op};

fn check_gemm(dims: &[usize], outputs: usize, residual: bool, activation: Option<Function>) {
    let inputs = dims[dims.len() - 1];
    let output = [&dims[..dims.len() - 1], &[outputs]].concat();
    let terms = inputs.max(outputs);
    let weight = Input::random(&[outputs, inputs], 1.0 / (terms as f32).sqrt(), 5);
    let bias = Input::random(&[outputs], 1.0, 6);
    for device in test_devices() {
        let constants = [&weight, &bias].map(|input| input.constant.clone().unwrap());
        let operation = Gemm::new(
            &device,
            dims,
            &output,
            &constants[0],
            &constants[1],
            residual,
        );
        let [weight, bias] = constants;
        let mut nodes = vec![
            Input::computed(dims),
            Input::constant(&[outputs, inputs], weight),
            Input::constant(&[outputs], bias),
        ];
        if residual {
            nodes.push(Input::computed(&output));
        }
        let node = Node {
            op: Op::Gemm { activation },
            inputs: nodes,
            output: output.clone(),
            terms,
        };
        check(
            &format!("{dims:?} to {outputs}, {activation:?}"),
            &device,
            &operation.unwrap(),
            &node,
        );
    }
}

#[test]
fn linear_layers() {
    for (dims, outputs) in [
        (&[1, 18, 5, 3][..], 7),
        (&[1, 40], 130),
        (&[1, 3, 40], 130),
        (&[1, 1], 1),
        (&[130, 1], 2),
        (&[1, 4, 13, 17], 20),
    ] {
        for (residual, activation) in [
            (false, None),
            (true, Some(Function::Relu)),
            (true, Some(Function::Gelu)),
        ] {
            check_gemm(dims, outputs, residual, activation);
        }
    }
    // More rows, columns and terms than any tile has.
    check_gemm(&[50, 140], 135, true, Some(Function::Tanh));
}

/// An operand's dims, and whether it is constant.
type Side<'a> = (&'a [usize], bool);

fn check_matmul(left: Side<'_>, right: Side<'_>, output: &[usize]) {
    check_in_tiles(left, right, output, 0..3);
}

/// With the best of some tiles.
fn check_in_tiles(left: Side<'_>, right: Side<'_>, output: &[usize], tiles: Range<usize>) {
    let input = |(dims, constant): Side<'_>, seed| match constant {
        true => Input::random(dims, 1.0, seed),
        false => Input::computed(dims),
    };
    let matrices: usize = output[..output.len() - 2].iter().product();
    let terms = [left.0, right.0, output]
        .concat()
        .into_iter()
        .max()
        .unwrap()
        * matrices;
    for device in test_devices() {
        let inputs = [input(left, 5), input(right, 6)];
        let [a, b] = inputs
            .each_ref()
            .map(|input| (&input.dims[..], input.constant.as_deref()));
        let mut operation = MatMul::new(&device, a, b, output).unwrap();
        let [by_left, by_right] = &mut operation.backward;
        for product in [&mut operation.forward, by_left, by_right] {
            product.kernels = &product.kernels[tiles.clone()];
        }
        let node = Node {
            op: Op::MatMul,
            inputs: inputs.into(),
            output: output.to_vec(),
            terms,
        };
        check(&format!("{left:?} x {right:?}"), &device, &operation, &node);
    }
}

#[test]
fn matrix_products() {
    // One matrix, vectors, and numbers.
    check_matmul((&[7, 20], false), (&[20, 5], false), &[7, 5]);
    check_matmul((&[1, 33], false), (&[33, 1], false), &[1, 1]);
    check_matmul((&[5, 1], false), (&[1, 9], false), &[5, 9]);
    // Attention.
    check_matmul(
        (&[2, 3, 7, 20], false),
        (&[2, 3, 20, 7], false),
        &[2, 3, 7, 7],
    );
}

/// More rows, columns and terms than any tile has, and fewer; each kind of tile.
#[test]
fn tiles_of_all_kinds() {
    for tile in 0..3 {
        let tiles = tile..tile + 1;
        check_in_tiles(
            (&[70, 40], false),
            (&[40, 133], false),
            &[70, 133],
            tiles.clone(),
        );
        check_in_tiles(
            (&[2, 3, 6, 5], false),
            (&[2, 1, 5, 7], false),
            &[2, 3, 6, 7],
            tiles,
        );
    }
}

#[test]
fn broadcast_matrix_products() {
    check_matmul((&[2, 3, 7, 20], false), (&[20, 7], false), &[2, 3, 7, 7]);
    check_matmul((&[2, 3, 7, 5], false), (&[1, 5, 6], false), &[2, 3, 7, 6]);
    check_matmul((&[7, 5], false), (&[4, 5, 6], false), &[4, 7, 6]);
    check_matmul((&[2, 1, 4, 5], false), (&[3, 5, 6], false), &[2, 3, 4, 6]);
}

#[test]
fn matrix_products_with_constants() {
    check_matmul((&[13, 50], true), (&[3, 50, 20], false), &[3, 13, 20]);
    check_matmul(
        (&[1, 3, 13, 20], false),
        (&[1, 3, 20, 33], true),
        &[1, 3, 13, 33],
    );
    check_matmul((&[3, 13, 20], false), (&[20, 33], true), &[3, 13, 33]);
    check_matmul((&[2, 4, 6], true), (&[6, 5], false), &[2, 4, 5]);
    check_matmul((&[6, 5], false), (&[3, 5, 7], true), &[3, 6, 7]);
}

/// Every struct of the kernels' sources has a mirror here of the same layout.
#[cfg(feature = "emulator")]
#[test]
fn structs_have_the_kernels_layout() {
    use crate::backend::cuda::driver::{assert_mirrored, mirror};
    let mirrors = [mirror::<Pair>(), mirror::<Matrix>(), mirror::<MatMulArgs>()];
    assert_mirrored(&[classifier_matmul::LAYOUTS], &mirrors);
}
