//! Two-sided operations, with every kind of broadcasting.

use super::{Builder, both_layouts};
use crate::classifier::{Binary, Function, Op, Reduction, ValueId};

const BINARY: [Binary; 7] = [
    Binary::Add,
    Binary::Sub,
    Binary::Mul,
    Binary::Div,
    Binary::Pow,
    Binary::Min,
    Binary::Max,
];

/// Both operands positive and about 1.
fn positive(b: &mut Builder, x: ValueId) -> ValueId {
    let x = b.map(Function::Sigmoid, x);
    b.map(Function::Exp, x)
}

#[test]
fn pairs_of_computed_operands() {
    for op in BINARY {
        both_layouts(&format!("{op:?}"), [18, 5, 3], 9, |b, x| {
            let other = b.pointwise(x, 18);
            let (x, other) = (positive(b, x), positive(b, other));
            b.node(Op::Binary(op), &[x, other], &[1, 18, 5, 3])
        });
        both_layouts(&format!("{op:?} of itself"), [3, 5, 3], 9, |b, x| {
            let x = positive(b, x);
            b.node(Op::Binary(op), &[x, x], &[1, 3, 5, 3])
        });
        // As in squeeze and excitation, either way round.
        for swap in [false, true] {
            both_layouts(
                &format!("{op:?} by channel, {swap}"),
                [18, 5, 3],
                99,
                |b, x| {
                    let mean = Op::Reduce {
                        kind: Reduction::Mean,
                        axes: vec![2, 3],
                    };
                    let gate = b.node(mean, &[x], &[1, 18, 1, 1]);
                    let (x, gate) = (positive(b, x), positive(b, gate));
                    let inputs = if swap { [gate, x] } else { [x, gate] };
                    b.node(Op::Binary(op), &inputs, &[1, 18, 5, 3])
                },
            );
        }
        // One channel for all of them.
        both_layouts(&format!("{op:?} by pixel"), [18, 5, 3], 99, |b, x| {
            let mask = b.pointwise(x, 1);
            let (x, mask) = (positive(b, x), positive(b, mask));
            b.node(Op::Binary(op), &[x, mask], &[1, 18, 5, 3])
        });
        // Both broadcast.
        both_layouts(&format!("{op:?} outer"), [1, 5, 3], 99, |b, x| {
            let x = positive(b, x);
            let (column, row) = (b.reshape(x, &[1, 15, 1]), b.reshape(x, &[15]));
            b.node(Op::Binary(op), &[column, row], &[1, 15, 15])
        });
    }
}

#[test]
fn pairs_with_constants() {
    for op in BINARY {
        for dims in [
            &[1, 18, 5, 3][..],
            &[18, 1, 1],
            &[3],
            &[],
            &[1, 1, 5, 3],
            &[1, 1, 1, 1],
            &[5, 1],
            &[2, 18, 1, 3],
        ] {
            for swap in [false, true] {
                both_layouts(
                    &format!("{op:?} and {dims:?}, {swap}"),
                    [18, 5, 3],
                    40,
                    |b, x| {
                        let n: usize = dims.iter().product();
                        let numbers = super::uniform(n, 9).into_iter().map(|x| x + 2.0).collect();
                        let constant = b.constant(dims, numbers);
                        let x = positive(b, x);
                        let inputs = if swap { [constant, x] } else { [x, constant] };
                        let output = if dims.first() == Some(&2) { 2 } else { 1 };
                        b.node(Op::Binary(op), &inputs, &[output, 18, 5, 3])
                    },
                );
            }
        }
    }
}
