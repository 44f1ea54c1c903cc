//! Operators that the importer puts together from others.

use super::operators::one;
use super::*;
use crate::classifier::graph::Op;
use crate::classifier::onnx::proto::Attribute;
use crate::classifier::onnx::write::*;

fn check_both(model: &ModelWriter, what: &str) {
    check(model, what);
    check_on_the_cpu(model, what);
}

/// A picture from −1/2 to 1/2 through one node of the inputs `a` and `others`, then flattened.
fn signed(opset: i64, op: &str, others: &[&str], attributes: &[Attribute]) -> ModelWriter {
    ModelWriter::new(opset, &[FREE, 3, 4, 5])
        .floats("half", &[], &[0.5])
        .node("Sub", &["x", "half"], &["a"], &[])
        .node(op, &[&["a"], others].concat(), &["t"], attributes)
        .node("Flatten", &["t"], &["y"], &[])
}

#[test]
fn functions() {
    check_both(&signed(17, "Softsign", &[], &[]), "Softsign");
    // tract's Celu is not ONNX's.
    for opset in [12, 13] {
        let model = signed(opset, "Celu", &[], &[float("alpha", 0.25)]);
        let expected: Vec<f64> = (picture(60).into_iter().map(|x| x - 0.5))
            .map(|x| {
                if x < 0.0 {
                    0.25 * (4.0 * x).exp_m1()
                } else {
                    x
                }
            })
            .collect();
        assert_close(&logits(&model.load().unwrap()), &expected, 1e-7, "Celu");
        check_on_the_cpu(&model, "Celu");
    }
    for opset in [11, 16] {
        for dims in [&[3, 1, 1][..], &[1], &[4, 5], &[1, 3, 4, 5]] {
            let model = signed(opset, "PRelu", &["slope"], &[]).weights("slope", dims);
            check_both(&model, &format!("PRelu {dims:?}"));
        }
    }
    let mean = one(13, "Mean", &["w", "v"], &[])
        .weights("w", &[3, 1, 1])
        .weights("v", &[5]);
    check_both(&mean, "Mean");
    check_both(&one(13, "Mean", &[], &[]), "Mean of one");
    // Slopes that are one number make an activation, which layers take in.
    let uniform = signed(16, "PRelu", &["slope"], &[]).floats("slope", &[3, 1, 1], &[0.25; 3]);
    let graph = uniform.import().unwrap();
    assert!(matches!(graph.nodes[1].op, Op::Map(_)), "{:?}", graph.nodes);
    check_both(&uniform, "PRelu of one slope");
}

#[test]
fn infinities_pass_a_prelu() {
    let model = ModelWriter::new(16, &[FREE, 1, 1, 4])
        .floats("to", &[4], &[f32::INFINITY, f32::NEG_INFINITY, 1.0, -1.0])
        .floats("slope", &[4], &[0.5, 0.25, 3.0, 2.0])
        .floats("one", &[], &[1.0])
        .node("Add", &["x", "one"], &["positive"], &[])
        .node("Mul", &["positive", "to"], &["a"], &[])
        .node("PRelu", &["a", "slope"], &["t"], &[])
        .node("Flatten", &["t"], &["y"], &[]);
    let x = picture(4);
    let expected = [
        f64::INFINITY,
        f64::NEG_INFINITY,
        x[2] + 1.0,
        -2.0 * (x[3] + 1.0),
    ];
    assert_close(&logits(&model.load().unwrap()), &expected, 1e-7, "PRelu");
}

#[test]
fn reductions() {
    for op in [
        "ReduceMin",
        "ReduceL1",
        "ReduceSumSquare",
        "ReduceLogSumExp",
    ] {
        for (axes, keep) in [(&[2, 3][..], 0), (&[-1], 1), (&[1], 0)] {
            let attributes = [ints("axes", axes), int("keepdims", keep)];
            check_both(&signed(11, op, &[], &attributes), op);
        }
        let model = signed(18, op, &["axes"], &[]).ints("axes", &[1, 2]);
        check_both(&model, op);
    }
    for opset in [13, 18] {
        let everything = one(opset, "ReduceLogSum", &[], &[]);
        check_both(&everything, "ReduceLogSum");
    }
    // tract's GlobalLpPool is a mean, ONNX's a norm.
    let sum = |plane: &[f64], f: fn(f64) -> f64| plane.iter().map(|&x| f(x - 0.5)).sum::<f64>();
    let norms = |p: i64| -> Vec<f64> {
        let norm = |plane: &[f64]| match p {
            1 => sum(plane, f64::abs),
            _ => sum(plane, |x| x * x).sqrt(),
        };
        picture(60).chunks(20).map(norm).collect()
    };
    for p in [1, 2] {
        let model = signed(17, "GlobalLpPool", &[], &[int("p", p)]);
        let y = logits(&model.load().unwrap());
        assert_close(&y, &norms(p), 1e-7, "GlobalLpPool");
        check_on_the_cpu(&model, "GlobalLpPool");
    }
}

/// Large numbers and infinities do not overflow on the way.
#[test]
fn log_of_summed_exponentials() {
    let model = |data: &[f32; 2]| {
        ModelWriter::new(13, &[FREE, 1, 1, 2])
            .floats("zero", &[], &[0.0])
            .floats("w", &[2], data)
            .node("Mul", &["x", "zero"], &["o"], &[])
            .node("Add", &["o", "w"], &["a"], &[])
            .node("ReduceLogSumExp", &["a"], &["t"], &[])
            .node("Flatten", &["t"], &["y"], &[])
    };
    let infinity = f32::INFINITY;
    for (data, expected) in [
        ([1000.0, 1000.0], 1000.0 + std::f64::consts::LN_2),
        ([-1000.0, -1000.0], -1000.0 + std::f64::consts::LN_2),
        ([-infinity, 3.0], 3.0),
        ([-infinity, -infinity], f64::NEG_INFINITY),
        ([infinity, 3.0], f64::INFINITY),
    ] {
        let what = format!("{data:?}");
        let y = logits(&model(&data).load().unwrap());
        assert_close(&y, &[0.0, expected], 1e-6, &what);
    }
}

#[test]
fn cumulative_sums() {
    for axis in [1, 2, -1] {
        for (exclusive, reverse) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for opset in [11, 14] {
                let attributes = [int("exclusive", exclusive), int("reverse", reverse)];
                let model = one(opset, "CumSum", &["axis"], &attributes).ints("axis", &[axis]);
                let what = format!("CumSum {axis} {attributes:?}");
                // tract takes an axis of rank 0 only.
                let mut scalar = model.clone();
                scalar.graph().initializer[0].dims.clear();
                check_both(&scalar, &what);
                let (a, b) = (model.load().unwrap(), scalar.load().unwrap());
                assert_eq!(logits(&a), logits(&b), "{what}");
            }
        }
    }
}

#[test]
fn normalizations() {
    for (op, groups) in [("GroupNormalization", 1), ("GroupNormalization", 3)] {
        let attributes = [int("num_groups", groups), float("epsilon", 1e-3)];
        let model = ModelWriter::new(18, &[FREE, 3, 4, 5])
            .ints("to", &[1, 6, 5, 2])
            .weights("s", &[groups])
            .weights("b", &[groups])
            .node("Reshape", &["x", "to"], &["r"], &[])
            .node(op, &["r", "s", "b"], &["t"], &attributes)
            .node("Flatten", &["t"], &["y"], &[]);
        check_both(&model, &format!("{op} of {groups}"));
    }
    for (size, attributes) in [
        (3, vec![]),
        (4, vec![float("alpha", 0.9), float("beta", 0.5)]),
        (1, vec![float("alpha", 2.0), float("bias", 0.3)]),
        (9, vec![float("alpha", 2.0), float("beta", 1.3)]),
    ] {
        for opset in [11, 13] {
            let attributes = [&[int("size", size)], &attributes[..]].concat();
            let model = ModelWriter::new(opset, &[FREE, 3, 4, 5])
                .ints("to", &[1, 6, 5, 2])
                .node("Reshape", &["x", "to"], &["r"], &[])
                .node("LRN", &["r"], &["t"], &attributes)
                .node("Flatten", &["t"], &["y"], &[]);
            check_both(&model, &format!("LRN {attributes:?}"));
        }
    }
    for (axis, p) in [(1, 1), (-1, 2), (2, 2)] {
        let attributes = [int("axis", axis), int("p", p)];
        check_both(
            &signed(17, "LpNormalization", &[], &attributes),
            "LpNormalization",
        );
    }
    let nothing = ModelWriter::new(17, &[FREE, 1, 2, 2])
        .floats("zero", &[], &[0.0])
        .node("Mul", &["x", "zero"], &["a"], &[])
        .node("LpNormalization", &["a"], &["t"], &[])
        .node("Flatten", &["t"], &["y"], &[]);
    assert_eq!(logits(&nothing.load().unwrap()), [0.0; 4]);
}

/// An even window reaches one channel further forward than back.
#[test]
fn local_response_of_an_even_window() {
    let model = ModelWriter::new(13, &[FREE, 3, 1, 1])
        .node(
            "LRN",
            &["x"],
            &["t"],
            &[int("size", 2), float("alpha", 3.0), float("beta", 1.0)],
        )
        .node("Flatten", &["t"], &["y"], &[]);
    let x = picture(3);
    let square = |c: usize| x.get(c).map_or(0.0, |x| x * x);
    let expected = [0, 1, 2].map(|c| x[c] / (1.0 + 1.5 * (square(c) + square(c + 1))));
    assert_close(&logits(&model.load().unwrap()), &expected, 1e-6, "LRN");
}

#[test]
fn pixels_and_channels() {
    for opset in [11, 13] {
        for mode in ["DCR", "CRD"] {
            let model = ModelWriter::new(opset, &[FREE, 3, 6, 4])
                .node("SpaceToDepth", &["x"], &["d"], &[int("blocksize", 2)])
                .node(
                    "DepthToSpace",
                    &["d"],
                    &["t"],
                    &[int("blocksize", 2), string("mode", mode)],
                )
                .node("Flatten", &["t"], &["y"], &[]);
            check_both(&model, mode);
        }
        let model = one(opset, "SpaceToDepth", &[], &[int("blocksize", 1)]);
        check_both(&model, "SpaceToDepth");
    }
}

/// `Where` of a mask of 3×4.
fn choice(branches: [&str; 2]) -> ModelWriter {
    let mask: Vec<f32> = (0..12).map(|i| f32::from(i * i % 5 < 2)).collect();
    ModelWriter::new(16, &[FREE, 3, 3, 4])
        .floats("mask", &[3, 4], &mask)
        .node("Cast", &["mask"], &["is"], &[int("to", 9)])
        .floats("never", &[1, 1], &[f32::NEG_INFINITY])
        .floats("ever", &[4], &[f32::INFINITY; 4])
        .floats("low", &[], &[f32::MIN])
        .weights("w", &[1, 3, 3, 4])
        .node("Neg", &["x"], &["minus"], &[])
        .node("Log", &["mask"], &["limits"], &[])
        .node("Add", &["x", "limits"], &["infinite"], &[])
        .node("Where", &["is", branches[0], branches[1]], &["t"], &[])
}

#[test]
fn choices() {
    for branches in [
        ["x", "minus"],
        ["x", "w"],
        ["w", "x"],
        ["x", "low"],
        ["infinite", "minus"],
    ] {
        let model = choice(branches).node("Flatten", &["t"], &["y"], &[]);
        check_both(&model, &format!("Where {branches:?}"));
    }
    // Infinities are chosen by a minimum or maximum, and the rest is as it was.
    for (branches, fill) in [
        (["x", "never"], f64::NEG_INFINITY),
        (["ever", "minus"], f64::INFINITY),
        (["minus", "ever"], f64::INFINITY),
    ] {
        let model = choice(branches).node("Flatten", &["t"], &["y"], &[]);
        let graph = model.load().unwrap();
        let moves = |op: &Op| matches!(op, Op::Gather { .. } | Op::Concat { .. });
        assert!(!graph.nodes.iter().any(|node| moves(&node.op)));
        let expected: Vec<f64> = (picture(36).into_iter().enumerate())
            .map(|(i, x)| {
                let is = i % 12 * (i % 12) % 5 < 2;
                match branches[usize::from(!is)] {
                    "x" => x,
                    "minus" => -x,
                    _ => fill,
                }
            })
            .collect();
        assert_close(&logits(&graph), &expected, 1e-9, &format!("{branches:?}"));
        let softmax = choice(branches).node("Neg", &["t"], &["n"], &[]);
        let input = if fill < 0.0 { "t" } else { "n" };
        let softmax = softmax
            .node("Softmax", &[input], &["s"], &[int("axis", 3)])
            .node("Flatten", &["s"], &["y"], &[]);
        check_on_the_cpu(&softmax, &format!("{branches:?}"));
    }
    // A condition that always holds leaves nothing of the other branch.
    let model = ModelWriter::new(16, &[FREE, 3, 3, 4])
        .floats("one", &[1, 1, 1, 1], &[1.0])
        .node("Cast", &["one"], &["is"], &[int("to", 9)])
        .node("Neg", &["x"], &["minus"], &[])
        .node("Where", &["is", "x", "minus"], &["t"], &[])
        .node("Flatten", &["t"], &["y"], &[]);
    assert_eq!(model.load().unwrap().nodes.len(), 1);
    assert_eq!(logits(&model.load().unwrap()), picture(36));
}

#[test]
fn triangles() {
    for (upper, k) in [(1, 0), (1, -1), (0, 2), (0, -2), (1, 9), (0, i64::MIN)] {
        let model = one(14, "Trilu", &["k"], &[int("upper", upper)]).ints("k", &[k]);
        let y = logits(&model.load().unwrap());
        let expected: Vec<f64> = (picture(90).into_iter().enumerate())
            .map(|(i, x)| {
                let (row, column) = ((i / 5 % 6) as i128, (i % 5) as i128);
                let kept = match upper {
                    1 => column >= row + i128::from(k),
                    _ => column <= row + i128::from(k),
                };
                if kept { x } else { 0.0 }
            })
            .collect();
        assert_eq!(y, expected, "{upper} {k}");
    }
    // Of a constant of ones, as causal masks are made.
    let causal = ModelWriter::new(14, &[FREE, 1, 4, 4])
        .floats("ones", &[4, 4], &[1.0; 16])
        .node("Trilu", &["ones"], &["mask"], &[int("upper", 0)])
        .node("Cast", &["mask"], &["is"], &[int("to", 9)])
        .node("Trilu", &["is"], &["diagonal"], &[])
        .floats("never", &[], &[f32::NEG_INFINITY])
        .node("Where", &["diagonal", "x", "never"], &["scores"], &[])
        .node("Softmax", &["scores"], &["p"], &[])
        .node("Flatten", &["p"], &["y"], &[]);
    let unit: Vec<f64> = (0..16).map(|i| f64::from(u8::from(i % 5 == 0))).collect();
    assert_eq!(logits(&causal.load().unwrap()), unit);
}

#[test]
fn signals() {
    let model = |op: &str, others: &[&str], attributes: &[Attribute]| {
        ModelWriter::new(12, &[FREE, 3, 2, 5])
            .ints("to", &[0, 3, 10])
            .node("Reshape", &["x", "to"], &["s"], &[])
            .weights("w", &[4, 3, 3])
            .weights("b", &[4])
            .weights("deep", &[6, 1, 4])
            .weights("p", &[3])
            .floats("v", &[3], &[0.5, 1.0, 2.0])
            .node(op, &[&["s"], others].concat(), &["t"], attributes)
            .node("Flatten", &["t"], &["y"], &[])
    };
    let kernel = ints("kernel_shape", &[3]);
    for (op, others, attributes) in [
        ("Conv", &["w", "b"][..], vec![]),
        ("Conv", &["w"], vec![kernel.clone(), ints("pads", &[2, 1])]),
        (
            "Conv",
            &["deep"],
            vec![int("group", 3), ints("strides", &[2])],
        ),
        ("Conv", &["w"], vec![ints("dilations", &[3])]),
        ("Conv", &["w"], vec![string("auto_pad", "SAME_UPPER")]),
        ("MaxPool", &[], vec![kernel.clone(), ints("strides", &[2])]),
        (
            "AveragePool",
            &[],
            vec![
                kernel.clone(),
                ints("pads", &[1, 1]),
                int("count_include_pad", 1),
            ],
        ),
        ("GlobalMaxPool", &[], vec![]),
        ("GlobalAveragePool", &[], vec![]),
        ("BatchNormalization", &["p", "p", "p", "v"], vec![]),
        ("InstanceNormalization", &["p", "p"], vec![]),
    ] {
        let what = format!("{op} {attributes:?}");
        check_both(&model(op, others, &attributes), &what);
    }
    let row = ModelWriter::new(15, &[FREE, 3, 2, 2])
        .node("Flatten", &["x"], &["f"], &[])
        .weights("p", &[12])
        .floats("v", &[12], &[0.7; 12])
        .node(
            "BatchNormalization",
            &["f", "p", "p", "p", "v"],
            &["y"],
            &[],
        );
    check_both(&row, "BatchNormalization of a row");
}

#[test]
fn integers_of_shapes() {
    // 3·4·5 elements, and the least of them.
    for (op, expected) in [
        ("ReduceProd", 60),
        ("ReduceMin", 2), // the two classes of one logit
        ("ReduceSumSquare", 51),
    ] {
        let model = ModelWriter::new(17, &[FREE, 3, 4, 5])
            .node("Shape", &["x"], &["shape"], &[])
            .node(op, &["shape"], &["n"], &[int("keepdims", 1)])
            .node("Neg", &["n"], &["from"], &[])
            .ints("end", &[i64::MAX])
            .ints("axis", &[1])
            .node("Flatten", &["x"], &["f"], &[])
            .node("Slice", &["f", "from", "end", "axis"], &["y"], &[]);
        assert_eq!(model.load().unwrap().classes(), expected, "{op}");
    }
}

#[test]
fn what_they_cannot_take() {
    let model = |op: &str, others: &[&str], attributes: &[Attribute]| {
        ModelWriter::new(18, &[FREE, 3, 4, 4])
            .weights("v", &[3])
            .weights("w", &[2, 3, 3])
            .ints("n", &[3])
            .ints("two", &[1, 2])
            .ints("far", &[4])
            .floats("mask", &[], &[1.0])
            .floats("none", &[0], &[])
            .node("Neg", &["x"], &["minus"], &[])
            .node("Cast", &["mask"], &["is"], &[int("to", 9)])
            .node(op, &[&["x"], others].concat(), &["t"], attributes)
            .node("Flatten", &["t"], &["y"], &[])
    };
    let groups = |n: i64| vec![int("num_groups", n)];
    let block = |n: i64| vec![int("blocksize", n)];
    for (op, others, attributes, reason) in [
        ("GroupNormalization", &["v", "v"][..], groups(2), "2 groups"),
        ("GroupNormalization", &["v", "v"], groups(0), "0 groups"),
        ("GroupNormalization", &["v", "v"], groups(-3), "not a size"),
        (
            "GroupNormalization",
            &["v", "v"],
            groups(1),
            "for 1 channels",
        ),
        ("LRN", &[], vec![], "size 0"),
        ("LRN", &[], vec![int("size", -1)], "not a size"),
        (
            "LRN",
            &[],
            vec![int("size", 3), float("beta", f32::NAN)],
            "NaN",
        ),
        ("PRelu", &["minus"], vec![], "depends on the image"),
        ("PRelu", &["v"], vec![], "broadcast"),
        ("PRelu", &["none"], vec![], "broadcast"),
        ("PRelu", &["n"], vec![], "not float"),
        ("Celu", &[], vec![float("alpha", 0.0)], "alpha 0"),
        ("DepthToSpace", &[], block(2), "3 channels"),
        ("DepthToSpace", &[], block(0), "blocks of 0"),
        ("DepthToSpace", &[], block(-1), "not a size"),
        ("DepthToSpace", &[], block(1 << 31), "not supported"),
        (
            "DepthToSpace",
            &[],
            [&block(1)[..], &[string("mode", "ABC")]].concat(),
            "mode ABC",
        ),
        ("SpaceToDepth", &[], block(3), "not blocks of 3"),
        ("CumSum", &[], vec![], "axis"),
        ("CumSum", &["far"], vec![], "beyond rank"),
        ("CumSum", &["two"], vec![], "single number"),
        ("CumSum", &["v"], vec![], "not integer"),
        ("Trilu", &["two"], vec![], "single number"),
        ("Trilu", &["v"], vec![], "not integer"),
        ("Where", &["is", "minus"], vec![], "depends on the image"),
        ("ReduceProd", &[], vec![], "depends on the image"),
        ("ReduceMin", &[], vec![ints("axes", &[9])], "beyond rank"),
        ("LpNormalization", &[], vec![int("p", 3)], "p 3"),
        ("GlobalLpPool", &[], vec![int("p", 0)], "p 0"),
        ("Conv", &["w"], vec![], "do not fit"),
        ("ConvTranspose", &["w"], vec![], "is not supported"),
    ] {
        let what = format!("{op} {others:?} {attributes:?}");
        let error = match model(op, others, &attributes).load() {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{what}"),
        };
        assert!(error.contains(reason), "{what}: {error}");
    }
    for (inputs, reason) in [
        (["mask", "x", "minus"], "not boolean"),
        (["is", "x", "n"], "integer constant"),
        (["is", "x", "w"], "broadcast"),
    ] {
        let model = ModelWriter::new(18, &[FREE, 3, 4, 4])
            .weights("w", &[2, 3, 3])
            .ints("n", &[3])
            .floats("mask", &[], &[1.0])
            .floats("half", &[1], &[0.0])
            .node("Neg", &["x"], &["minus"], &[])
            .node("Cast", &["half"], &["is"], &[int("to", 9)])
            .node("Where", &inputs, &["t"], &[])
            .node("Flatten", &["t"], &["y"], &[]);
        let error = model.load().unwrap_err().to_string();
        assert!(error.contains(reason), "{inputs:?}: {error}");
    }
    // Long sums would need a matrix that nothing in the file justifies.
    let long = ModelWriter::new(18, &[FREE, 1, 64, 64])
        .ints("axis", &[1])
        .node("Flatten", &["x"], &["f"], &[])
        .node("CumSum", &["f", "axis"], &["y"], &[]);
    let error = long.load().unwrap_err().to_string();
    assert!(error.contains("out of proportion"), "{error}");
    // No part of an empty tensor's shape overflows.
    let empty = ModelWriter::new(18, &[FREE, 1, 2, 2])
        .floats("w", &[0, 1 << 40, 1 << 40, 1], &[])
        .node("SpaceToDepth", &["w"], &["s"], &[int("blocksize", 2)])
        .node("Concat", &["x", "s"], &["t"], &[])
        .node("Flatten", &["t"], &["y"], &[]);
    let error = empty.load().unwrap_err().to_string();
    assert!(error.contains("overflows"), "{error}");
}
