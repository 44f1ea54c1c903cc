//! Every operator, in every opset range where it changed, against tract or numbers worked out by
//! hand where tract does not know it.

use super::*;
use crate::classifier::onnx::proto::Attribute;
use crate::classifier::onnx::write::*;

/// A 1×3×6×5 picture through one node of the inputs `x` and `others`, then flattened.
pub(crate) fn one(opset: i64, op: &str, others: &[&str], attributes: &[Attribute]) -> ModelWriter {
    let inputs = [&["x"], others].concat();
    ModelWriter::new(opset, &[FREE, 3, 6, 5])
        .node(op, &inputs, &["t"], attributes)
        .node("Flatten", &["t"], &["y"], &[int("axis", 1)])
}

#[test]
fn functions() {
    for (opset, op) in [
        (11, "Relu"),
        (13, "Sigmoid"),
        (17, "HardSigmoid"),
        (17, "HardSwish"),
        (17, "Tanh"),
        (17, "Elu"),
        (17, "Selu"),
        (17, "Softplus"),
        (17, "Erf"),
        (17, "Exp"),
        (17, "Log"),
        (17, "Sqrt"),
        (17, "Reciprocal"),
        (17, "Neg"),
        (17, "Abs"),
        (18, "Mish"),
        (20, "Gelu"),
        (17, "Identity"),
        (17, "Dropout"),
    ] {
        // From −1 to 1, but above 0 for the functions that need it.
        let (scale, shift) = match op {
            "Log" | "Sqrt" | "Reciprocal" => (1.0, 0.5),
            _ => (8.0, -4.0),
        };
        let model = ModelWriter::new(opset, &[FREE, 3, 6, 5])
            .floats("scale", &[], &[scale])
            .floats("shift", &[1], &[shift])
            .node("Mul", &["x", "scale"], &["a"], &[])
            .node("Add", &["shift", "a"], &["b"], &[])
            .node(op, &["b"], &["t"], &[])
            // A model whose last node is a sigmoid is refused.
            .node("Flatten", &["t"], &["f"], &[])
            .node("Neg", &["f"], &["y"], &[]);
        check(&model, op);
    }
    check(
        &one(17, "LeakyRelu", &[], &[float("alpha", 0.3)]),
        "LeakyRelu",
    );
    let clip = one(11, "Clip", &["low", "high"], &[])
        .floats("low", &[], &[0.2])
        .floats("high", &[], &[0.7]);
    check(&clip, "Clip");
    let clip = one(13, "Clip", &["", "high"], &[]).floats("high", &[], &[0.7]);
    check(&clip, "Clip without a lower bound");
}

#[test]
fn clip_takes_bounds_as_attributes() {
    let by_attribute = one(11, "Clip", &[], &[float("min", 0.2), float("max", 0.7)]);
    let by_input = one(11, "Clip", &["low", "high"], &[])
        .floats("low", &[], &[0.2])
        .floats("high", &[], &[0.7]);
    assert_eq!(
        logits(&by_attribute.import().unwrap()),
        logits(&by_input.import().unwrap())
    );
}

#[test]
fn approximate_gelu() {
    let model = one(20, "Gelu", &[], &[string("approximate", "tanh")]);
    let pixels = picture(90);
    let expected: Vec<f64> = (pixels.iter())
        .map(|&x| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        })
        .collect();
    assert_close(&logits(&model.load().unwrap()), &expected, 1e-7, "Gelu");
}

#[test]
fn binaries_broadcast() {
    for op in ["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum"] {
        for dims in [&[3, 1, 1][..], &[1, 3, 6, 1], &[5], &[], &[1, 3, 6, 5]] {
            let n: i64 = dims.iter().product();
            let data: Vec<f32> = (0..n).map(|i| 0.5 + (i % 7) as f32 / 4.0).collect();
            let right = one(17, op, &["w"], &[]).floats("w", dims, &data);
            check(&right, op);
            let left = ModelWriter::new(17, &[FREE, 3, 6, 5])
                .floats("w", dims, &data)
                .node("Add", &["x", "w"], &["sum"], &[])
                .node(op, &["w", "sum"], &["t"], &[])
                .node("Flatten", &["t"], &["y"], &[]);
            check(&left, op);
        }
    }
    // A larger constant broadcasts the picture.
    let model = ModelWriter::new(13, &[FREE, 1, 2, 2])
        .weights("w", &[1, 3, 2, 2])
        .node("Mul", &["x", "w"], &["t"], &[])
        .node("Flatten", &["t"], &["y"], &[]);
    check(&model, "Mul with a larger constant");
}

#[test]
fn convolutions() {
    let conv = |attributes: &[Attribute], weight: &[i64], bias: bool| {
        let others: &[&str] = if bias { &["w", "b"] } else { &["w"] };
        let model = one(11, "Conv", others, attributes).weights("w", weight);
        match bias {
            true => model.weights("b", &weight[..1]),
            false => model,
        }
    };
    let cases: Vec<(Vec<Attribute>, [i64; 4], bool)> = vec![
        (vec![], [4, 3, 1, 1], false),
        (vec![ints("pads", &[1, 1, 1, 1])], [4, 3, 3, 3], true),
        (
            vec![ints("pads", &[0, 2, 1, 0]), ints("strides", &[2, 1])],
            [2, 3, 3, 2],
            true,
        ),
        (
            vec![ints("pads", &[2, 2, 2, 2]), ints("dilations", &[2, 2])],
            [2, 3, 3, 3],
            false,
        ),
        (
            vec![int("group", 3), ints("pads", &[1, 1, 1, 1])],
            [6, 1, 3, 3],
            true,
        ),
        (
            vec![string("auto_pad", "SAME_UPPER"), ints("strides", &[2, 2])],
            [2, 3, 3, 3],
            true,
        ),
        (
            vec![string("auto_pad", "SAME_LOWER"), ints("strides", &[2, 2])],
            [2, 3, 2, 4],
            true,
        ),
        (vec![string("auto_pad", "VALID")], [2, 3, 2, 4], true),
        (
            vec![ints("kernel_shape", &[5, 5]), ints("pads", &[4, 4, 4, 4])],
            [1, 3, 5, 5],
            true,
        ),
    ];
    for (attributes, weight, bias) in cases {
        let what = format!("Conv {attributes:?}");
        check(&conv(&attributes, &weight, bias), &what);
    }
}

#[test]
fn same_padding_of_a_small_picture_with_long_strides() {
    // Output row 1 starts 4 rows down: no padding is needed to reach it.
    let model = ModelWriter::new(17, &[FREE, 1, 5, 5])
        .floats("w", &[1, 1, 1, 1], &[2.0])
        .node(
            "Conv",
            &["x", "w"],
            &["t"],
            &[string("auto_pad", "SAME_UPPER"), ints("strides", &[4, 4])],
        )
        .node("Flatten", &["t"], &["y"], &[]);
    let pixels = picture(25);
    let expected = [0, 4, 20, 24].map(|i| 2.0 * pixels[i]);
    assert_close(&logits(&model.load().unwrap()), &expected, 1e-7, "SAME");
}

#[test]
fn batch_normalization() {
    let model = one(
        15,
        "BatchNormalization",
        &["scale", "b", "mean", "var"],
        &[float("epsilon", 1e-3), float("momentum", 0.9)],
    )
    .weights("scale", &[3])
    .weights("b", &[3])
    .weights("mean", &[3])
    .floats("var", &[3], &[0.5, 1.5, 0.01]);
    check(&model, "BatchNormalization");
}

/// What exporters write for the weights of NFNets.
#[test]
fn standardized_weights() {
    let normalize = |outputs: &[&str]| {
        ModelWriter::new(17, &[FREE, 3, 3, 3])
            .weights("raw", &[1, 2, 27])
            .floats("gain", &[2], &[0.5, 2.0])
            .floats("zero", &[2], &[0.0, 0.0])
            .node(
                "BatchNormalization",
                &["raw", "gain", "zero", "zero", "gain"],
                outputs,
                &[int("training_mode", 1), float("epsilon", 0.0)],
            )
            .ints("shape", &[2, 3, 3, 3])
            .node("Reshape", &["standard", "shape"], &["w"], &[])
            .node("Conv", &["x", "w"], &["t"], &[])
            .node("Flatten", &["t"], &["y"], &[])
    };
    let model = normalize(&["standard", "mean", "var"]);
    let raw: Vec<f64> = (model.clone().graph().initializer[0].raw_data.chunks(4))
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()).into())
        .collect();
    let x = picture(27);
    let expected = [0, 1].map(|o| {
        let w = &raw[27 * o..][..27];
        let mean = w.iter().sum::<f64>() / 27.0;
        let deviation = (w.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / 27.0).sqrt();
        let product: f64 = w.iter().zip(&x).map(|(w, x)| (w - mean) * x).sum();
        product / deviation * [0.5, 2.0][o]
    });
    assert_close(&logits(&model.load().unwrap()), &expected, 1e-6, "weights");
}

#[test]
fn pools() {
    let kernel = |a, b| ints("kernel_shape", &[a, b]);
    let cases: Vec<(&str, Vec<Attribute>)> = vec![
        ("MaxPool", vec![kernel(2, 2)]),
        (
            "MaxPool",
            vec![
                kernel(3, 3),
                ints("strides", &[2, 2]),
                ints("pads", &[1, 1, 1, 1]),
            ],
        ),
        (
            "MaxPool",
            vec![kernel(3, 2), ints("strides", &[2, 2]), int("ceil_mode", 1)],
        ),
        (
            "MaxPool",
            vec![
                kernel(3, 3),
                string("auto_pad", "SAME_UPPER"),
                ints("strides", &[2, 2]),
            ],
        ),
        ("AveragePool", vec![kernel(6, 5)]),
        (
            "AveragePool",
            vec![kernel(3, 3), ints("pads", &[1, 1, 1, 1])],
        ),
        (
            "AveragePool",
            vec![
                kernel(3, 3),
                ints("pads", &[1, 0, 1, 1]),
                int("count_include_pad", 1),
                ints("strides", &[2, 2]),
            ],
        ),
        (
            "AveragePool",
            vec![
                kernel(2, 2),
                string("auto_pad", "SAME_LOWER"),
                ints("strides", &[2, 2]),
            ],
        ),
        ("GlobalAveragePool", vec![]),
        ("GlobalMaxPool", vec![]),
    ];
    for (op, attributes) in cases {
        let what = format!("{op} {attributes:?}");
        check(&one(12, op, &[], &attributes), &what);
    }
}

#[test]
fn rounding_up_leaves_out_windows_beyond_the_picture() {
    // Rows 0..2, 3..5 of 5 (and one of padding): PyTorch divides by what lies in the padded picture.
    let pool = |op: &str, kernel: i64, pad: i64| {
        let attributes = [
            ints("kernel_shape", &[kernel, 1]),
            ints("strides", &[3, 1]),
            ints("pads", &[pad, 0, pad, 0]),
            int("ceil_mode", 1),
            int("count_include_pad", 1),
        ];
        let count = if op == "AveragePool" { 5 } else { 4 };
        ModelWriter::new(19, &[FREE, 1, 5, 1])
            .node(op, &["x"], &["t"], &attributes[..count])
            .node("Flatten", &["t"], &["y"], &[])
    };
    let x = picture(5);
    let average = logits(&pool("AveragePool", 3, 0).load().unwrap());
    let expected = [(x[0] + x[1] + x[2]) / 3.0, (x[3] + x[4]) / 2.0];
    assert_close(&average, &expected, 1e-7, "AveragePool");
    // One row of padding at each side: rows −1..1, 2..4, and the window at 5 would start in the padding.
    let average = logits(&pool("AveragePool", 3, 1).load().unwrap());
    let expected = [(x[0] + x[1]) / 3.0, (x[2] + x[3] + x[4]) / 3.0];
    assert_close(&average, &expected, 1e-7, "padded AveragePool");
    let max = logits(&pool("MaxPool", 2, 1).load().unwrap());
    let expected = [x[0], x[2].max(x[3])];
    assert_close(&max, &expected, 1e-7, "MaxPool");
}

#[test]
fn products() {
    let flat =
        |opset| ModelWriter::new(opset, &[FREE, 3, 2, 2]).node("Flatten", &["x"], &["f"], &[]);
    for (attributes, weight, bias) in [
        (vec![], [12, 4], Some(vec![4])),
        (vec![int("transB", 1)], [4, 12], Some(vec![1, 4])),
        (
            vec![int("transB", 1), float("alpha", 0.5), float("beta", 2.0)],
            [4, 12],
            Some(vec![1]),
        ),
        (vec![int("transB", 1)], [4, 12], None),
    ] {
        let model = flat(13).weights("w", &weight);
        let model = match &bias {
            Some(dims) => model.weights("b", dims),
            None => model,
        };
        let inputs: &[&str] = if bias.is_some() {
            &["f", "w", "b"]
        } else {
            &["f", "w"]
        };
        check(&model.node("Gemm", inputs, &["y"], &attributes), "Gemm");
    }
    // Three rows, a bias by row, and a transposed left operand.
    let rows = |dims: &[i64], transposed: i64| {
        ModelWriter::new(13, &[FREE, 3, 2, 2])
            .ints("rows", dims)
            .node("Reshape", &["x", "rows"], &["f"], &[])
            .weights("w", &[4, 5])
            .weights("b", &[3, 1])
            .node(
                "Gemm",
                &["f", "w", "b"],
                &["g"],
                &[int("transA", transposed)],
            )
            .ints("flat", &[1, 15])
            .node("Reshape", &["g", "flat"], &["y"], &[])
    };
    check(&rows(&[3, 4], 0), "Gemm of rows");
    check(&rows(&[4, 3], 1), "Gemm of columns");
    check(
        &flat(17)
            .weights("w", &[12, 4])
            .node("MatMul", &["f", "w"], &["y"], &[]),
        "MatMul",
    );
    // Attention: both operands computed, batched.
    let model = ModelWriter::new(17, &[FREE, 3, 4, 2])
        .node("Transpose", &["x"], &["k"], &[ints("perm", &[0, 1, 3, 2])])
        .node("MatMul", &["x", "k"], &["scores"], &[])
        .node("Softmax", &["scores"], &["p"], &[int("axis", -1)])
        .node("MatMul", &["p", "x"], &["o"], &[])
        .node("Flatten", &["o"], &["y"], &[]);
    check(&model, "attention");
    // A constant on the left, broadcast; a vector on the right.
    let model = ModelWriter::new(17, &[FREE, 3, 4, 2])
        .weights("w", &[5, 4])
        .weights("v", &[2])
        .node("MatMul", &["w", "x"], &["a"], &[])
        .node("MatMul", &["a", "v"], &["b"], &[])
        .node("Flatten", &["b"], &["y"], &[]);
    check(&model, "MatMul from the left");
}

#[test]
fn reductions() {
    for op in ["ReduceMean", "ReduceMax", "ReduceL2"] {
        for (axes, keep) in [(vec![2, 3], 0), (vec![-1], 1), (vec![1], 0)] {
            let model = one(13, op, &[], &[ints("axes", &axes), int("keepdims", keep)]);
            check(&model, op);
        }
        let model = one(18, op, &["axes"], &[]).ints("axes", &[2, 3]);
        check(&model, op);
    }
    check(
        &one(13, "ReduceSum", &["axes"], &[int("keepdims", 0)]).ints("axes", &[-2]),
        "ReduceSum",
    );
    check(
        &one(11, "ReduceSum", &[], &[ints("axes", &[3])]),
        "ReduceSum of opset 11",
    );
    let nothing = one(18, "ReduceMean", &[], &[int("noop_with_empty_axes", 1)]);
    let expected = picture(90);
    assert_close(
        &logits(&nothing.load().unwrap()),
        &expected,
        1e-9,
        "no axes",
    );
}

#[test]
fn softmaxes() {
    for op in ["Softmax", "LogSoftmax"] {
        check(&one(13, op, &[], &[int("axis", 1)]), op);
        check(&one(13, op, &[], &[]), op);
        check(&one(11, op, &[], &[int("axis", 2)]), op);
    }
}

#[test]
fn moves() {
    check(
        &one(13, "Transpose", &[], &[ints("perm", &[0, 2, 3, 1])]),
        "Transpose",
    );
    let slice = one(13, "Slice", &["from", "to", "axes", "by"], &[])
        .ints("from", &[-1, 1])
        .ints("to", &[i64::MIN, i64::MAX])
        .ints("axes", &[3, -2])
        .ints("by", &[-2, 2]);
    check(&slice, "Slice");
    for axis in [1, 2] {
        let model = ModelWriter::new(13, &[FREE, 3, 6, 5])
            .node("Relu", &["x"], &["a"], &[])
            .weights("w", &[1, 3, 6, 5])
            .node("Concat", &["a", "w", "x"], &["t"], &[int("axis", axis)])
            .node("Flatten", &["t"], &["y"], &[]);
        check(&model, "Concat");
    }
    for (opset, attributes) in [
        (13, vec![int("axis", 2)]),
        (18, vec![int("axis", 2), int("num_outputs", 2)]),
    ] {
        let model = ModelWriter::new(opset, &[FREE, 3, 4, 2])
            .node("Split", &["x"], &["a", "b"], &attributes)
            .node("Mul", &["a", "b"], &["t"], &[])
            .node("Flatten", &["t"], &["y"], &[]);
        check(&model, "Split");
    }
    let model = ModelWriter::new(11, &[FREE, 3, 4, 2])
        .node(
            "Split",
            &["x"],
            &["a", "b"],
            &[int("axis", 2), ints("split", &[1, 3])],
        )
        .node("Sub", &["b", "a"], &["t"], &[])
        .node("Flatten", &["t"], &["y"], &[]);
    check(&model, "Split by attribute");
    for mode in ["constant", "reflect", "edge"] {
        let model = one(13, "Pad", &["pads"], &[string("mode", mode)])
            .ints("pads", &[0, 0, 2, 1, 0, 0, 1, 3]);
        check(&model, mode);
    }
    let value = one(13, "Pad", &["pads", "value"], &[])
        .ints("pads", &[0, 1, 0, 0, 0, 0, 0, 2])
        .floats("value", &[], &[0.25]);
    check(&value, "Pad with a value");
    for (op, shape) in [("Expand", [1, 1, 4, 1]), ("Tile", [1, 2, 3, 2])] {
        let model = ModelWriter::new(13, &[FREE, 3, 1, 2])
            .ints("shape", &shape)
            .node(op, &["x", "shape"], &["t"], &[])
            .node("Flatten", &["t"], &["y"], &[]);
        check(&model, op);
    }
    let gather = one(13, "Gather", &["at"], &[int("axis", 2)]).ints("at", &[4, -6, 1]);
    check(&gather, "Gather");
}

#[test]
fn crops_by_negative_padding() {
    let model = ModelWriter::new(13, &[FREE, 1, 3, 2])
        .ints("pads", &[0, 0, -1, 1, 0, 0, -1, 0])
        .node("Pad", &["x", "pads"], &["t"], &[])
        .node("Flatten", &["t"], &["y"], &[]);
    let x = picture(6);
    let expected = [0.0, x[2], x[3]];
    assert_close(&logits(&model.load().unwrap()), &expected, 1e-9, "Pad");
}

#[test]
fn shapes() {
    for (opset, inputs, attributes) in [
        (11, &["x"][..], vec![ints("axes", &[1, 4])]),
        (13, &["x", "axes"], vec![]),
    ] {
        let model = ModelWriter::new(opset, &[FREE, 3, 6, 5])
            .ints("axes", &[1, -2])
            .node("Unsqueeze", inputs, &["a"], &attributes)
            .node(
                "Squeeze",
                &[&["a"], &inputs[1..]].concat(),
                &["t"],
                &attributes,
            )
            .node("Flatten", &["t"], &["y"], &[]);
        check(&model, "Unsqueeze and Squeeze");
    }
    for shape in [&[0, -1][..], &[-1, 90], &[1, 90]] {
        let model = ModelWriter::new(14, &[FREE, 3, 6, 5])
            .ints("shape", shape)
            .node("Reshape", &["x", "shape"], &["y"], &[]);
        check(&model, "Reshape");
    }
}
