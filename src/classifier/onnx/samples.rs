//! Small models that together use every operation, for tests of importer, passes and backends.

use super::proto::Attribute;
use super::write::*;

/// All of them, with names.
pub fn samples() -> Vec<(&'static str, ModelWriter)> {
    vec![
        ("residual", residual()),
        ("squeeze and excite", squeeze_and_excite()),
        ("pre-activation", pre_activation()),
        ("functions", functions(false)),
        ("functions after layers", functions(true)),
        ("pools", pools()),
        ("attention", attention()),
        ("binaries", binaries()),
        ("moves", moves()),
        ("reductions", reductions()),
        ("normalization", normalization()),
        ("local normalization", local_normalization()),
        ("resizing", resizing()),
        ("choices", choices()),
        ("signals", signals()),
    ]
}

/// Numbers in [0, 1), all float32, without ties or a pattern that layers could cancel.
pub fn picture(elements: usize) -> Vec<f64> {
    (0..elements)
        .map(|i| ((i as f64 * 12.9898).sin() * 43758.5453).rem_euclid(1.0))
        .map(|x| f64::from(x as f32))
        .collect()
}

fn same(pad: i64) -> Attribute {
    ints("pads", &[pad; 4])
}

impl ModelWriter {
    /// Convolution without bias, and batch normalization: `name` from `input`.
    fn conv_norm(self, name: &str, input: &str, weight: &[i64], attributes: &[Attribute]) -> Self {
        let part = |what: &str| format!("{name}.{what}");
        let n = weight[0];
        let variance: Vec<f32> = (0..n).map(|c| 0.3 + (c % 5) as f32 / 3.0).collect();
        self.weights(&part("w"), weight)
            .node("Conv", &[input, &part("w")], &[&part("c")], attributes)
            .norm(name, &part("c"), &variance)
    }

    fn norm(self, name: &str, input: &str, variance: &[f32]) -> Self {
        let part = |what: &str| format!("{name}.{what}");
        let n = variance.len() as i64;
        self.weights(&part("s"), &[n])
            .weights(&part("b"), &[n])
            .weights(&part("m"), &[n])
            .floats(&part("v"), &[n], variance)
            .node(
                "BatchNormalization",
                &[input, &part("s"), &part("b"), &part("m"), &part("v")],
                &[name],
                &[],
            )
    }

    /// Global average pooling and a linear layer of `classes`: the output.
    fn head(self, input: &str, channels: i64, classes: i64) -> Self {
        self.node("GlobalAveragePool", &[input], &["pooled"], &[])
            .node("Flatten", &["pooled"], &["flat"], &[])
            .weights("fc", &[classes, channels])
            .weights("fc.b", &[classes])
            .node("Gemm", &["flat", "fc", "fc.b"], &["y"], &[int("transB", 1)])
    }
}

/// Normalized input, two residual blocks, the second with a strided shortcut.
fn residual() -> ModelWriter {
    ModelWriter::new(17, &[FREE, 3, 9, 8])
        .floats("mean", &[1, 3, 1, 1], &[0.48, 0.45, 0.4])
        .floats("std", &[1, 3, 1, 1], &[0.23, 0.22, 0.24])
        .node("Sub", &["x", "mean"], &["centered"], &[])
        .node("Div", &["centered", "std"], &["normal"], &[])
        .conv_norm("a", "normal", &[6, 3, 3, 3], &[same(1)])
        .node("Relu", &["a"], &["ar"], &[])
        .conv_norm("b", "ar", &[6, 2, 3, 3], &[same(1), int("group", 3)])
        .node("Relu", &["b"], &["br"], &[])
        .conv_norm("c", "br", &[6, 6, 1, 1], &[])
        .node("Add", &["c", "ar"], &["d"], &[])
        .node("Relu", &["d"], &["dr"], &[])
        .conv_norm(
            "e",
            "dr",
            &[8, 6, 3, 3],
            &[same(1), ints("strides", &[2, 2])],
        )
        .conv_norm("s", "dr", &[8, 6, 1, 1], &[ints("strides", &[2, 2])])
        .node("LeakyRelu", &["e"], &["er"], &[])
        .conv_norm(
            "f",
            "er",
            &[8, 8, 3, 3],
            &[same(2), ints("dilations", &[2, 2])],
        )
        .node("Add", &["s", "f"], &["g"], &[])
        .node("Relu", &["g"], &["gr"], &[])
        .head("gr", 8, 5)
}

/// Computed padding, depthwise convolution, activations spelt out, channel attention.
fn squeeze_and_excite() -> ModelWriter {
    ModelWriter::new(17, &[FREE, 3, 8, 8])
        .ints("pads", &[0, 0, 0, 0, 0, 0, 1, 1])
        .node("Pad", &["x", "pads"], &["p"], &[])
        .conv_norm("a", "p", &[6, 3, 3, 3], &[ints("strides", &[2, 2])])
        .node("Sigmoid", &["a"], &["as"], &[])
        .node("Mul", &["a", "as"], &["silu"], &[])
        .conv_norm("b", "silu", &[6, 1, 5, 5], &[same(2), int("group", 6)])
        .node("HardSigmoid", &["b"], &["bs"], &[float("alpha", 1.0 / 6.0)])
        .node("Mul", &["bs", "b"], &["hard"], &[])
        .node("GlobalAveragePool", &["hard"], &["squeezed"], &[])
        .weights("sw", &[2, 6, 1, 1])
        .weights("sb", &[2])
        .node("Conv", &["squeezed", "sw", "sb"], &["s"], &[])
        .node("Softplus", &["s"], &["sp"], &[])
        .node("Tanh", &["sp"], &["st"], &[])
        .node("Mul", &["s", "st"], &["mish"], &[])
        .weights("ew", &[6, 2, 1, 1])
        .node("Conv", &["mish", "ew"], &["e"], &[])
        .floats("three", &[], &[3.0])
        .floats("zero", &[], &[0.0])
        .floats("six", &[], &[6.0])
        .node("Add", &["e", "three"], &["e3"], &[])
        .node("Clip", &["e3", "zero", "six"], &["e6"], &[])
        .node("Div", &["e6", "six"], &["gate"], &[])
        .node("Mul", &["hard", "gate"], &["excited"], &[])
        .conv_norm("c", "excited", &[6, 6, 1, 1], &[])
        .node("Add", &["c", "silu"], &["d"], &[])
        .node("Clip", &["d", "zero", "six"], &["relu6"], &[])
        .head("relu6", 6, 4)
}

/// Batch normalization and activation ahead of convolutions, and of what two layers read.
fn pre_activation() -> ModelWriter {
    ModelWriter::new(13, &[FREE, 3, 6, 6])
        .norm("n", "x", &[0.5, 1.0, 0.2])
        .node("Relu", &["n"], &["nr"], &[])
        .weights("w", &[4, 3, 3, 3])
        .node("Conv", &["nr", "w"], &["c"], &[same(1)])
        .weights("w2", &[4, 3, 1, 1])
        .node("Conv", &["nr", "w2"], &["c2"], &[])
        .norm("n2", "c", &[0.5, 1.0, 0.2, 2.0])
        .node("Add", &["c", "c2"], &["sum"], &[])
        .node("Mul", &["sum", "n2"], &["t"], &[])
        .head("t", 4, 3)
}

/// Every function of one number; after a layer each, or on its own.
fn functions(after_layers: bool) -> ModelWriter {
    let mut model = ModelWriter::new(20, &[FREE, 3, 3, 3])
        .floats("scale", &[], &[6.0])
        .floats("shift", &[], &[-2.9])
        .node("Mul", &["x", "scale"], &["a"], &[])
        .node("Add", &["a", "shift"], &["b"], &[])
        .floats("one", &[], &[1.0])
        .node("Add", &["x", "one"], &["positive"], &[])
        .floats("low", &[], &[-1.0])
        .floats("high", &[], &[1.5]);
    let mut outputs = Vec::new();
    let all = [
        "Relu",
        "LeakyRelu",
        "Clip",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Gelu",
        "GeluTanh",
        "Tanh",
        "Elu",
        "Selu",
        "Softplus",
        "Mish",
        "Erf",
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Neg",
        "Abs",
        "Celu",
    ];
    for name in all {
        let mut input = match name {
            "Log" | "Sqrt" | "Reciprocal" => "positive",
            _ => "b",
        }
        .to_string();
        if after_layers {
            let (weight, layer) = (format!("{name}.w"), format!("{name}.c"));
            // Positive stays positive.
            model = model
                .floats(
                    &weight,
                    &[3, 3, 1, 1],
                    &[0.5, 0.1, 0.4, 0.2, 0.7, 0.3, 0.3, 0.1, 0.2],
                )
                .node("Conv", &[&input, &weight], &[&layer], &[]);
            input = layer;
        }
        let (op, attributes) = match name {
            "GeluTanh" => ("Gelu", vec![string("approximate", "tanh")]),
            name => (name, vec![]),
        };
        let inputs = match name {
            "Clip" => vec![&input[..], "low", "high"],
            _ => vec![&input[..]],
        };
        let output = format!("{name}.y");
        model = model.node(op, &inputs, &[&output], &attributes);
        outputs.push(output);
    }
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    model
        .node("Concat", &outputs, &["t"], &[int("axis", 1)])
        .node("Flatten", &["t"], &["y"], &[])
}

fn pools() -> ModelWriter {
    let kernel = |a, b| ints("kernel_shape", &[a, b]);
    let strides = ints("strides", &[2, 2]);
    let cases: [(&str, Vec<Attribute>); 7] = [
        ("MaxPool", vec![kernel(2, 3)]),
        ("MaxPool", vec![kernel(3, 3), strides.clone(), same(1)]),
        (
            "MaxPool",
            vec![kernel(2, 2), strides.clone(), int("ceil_mode", 1)],
        ),
        ("AveragePool", vec![kernel(2, 2)]),
        (
            "AveragePool",
            vec![kernel(3, 3), strides.clone(), ints("pads", &[1, 0, 1, 1])],
        ),
        (
            "AveragePool",
            vec![kernel(3, 3), same(1), int("count_include_pad", 1)],
        ),
        (
            "AveragePool",
            vec![kernel(2, 2), strides, int("ceil_mode", 1)],
        ),
    ];
    let mut model = ModelWriter::new(17, &[FREE, 3, 7, 5])
        .ints("sides", &[0, 0, 1, 1, 0, 0, 1, 0])
        .node("Pad", &["x", "sides"], &["padded"], &[])
        .node("AveragePool", &["padded"], &["p"], &[kernel(2, 2)])
        .node("Flatten", &["p"], &["f"], &[]);
    let mut outputs = vec!["f".to_string()];
    for (i, (op, attributes)) in cases.into_iter().enumerate() {
        let (pooled, flat) = (format!("p{i}"), format!("f{i}"));
        model = model.node(op, &["x"], &[&pooled], &attributes).node(
            "Flatten",
            &[&pooled],
            &[&flat],
            &[],
        );
        outputs.push(flat);
    }
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    model.node("Concat", &outputs, &["y"], &[int("axis", 1)])
}

/// A transformer block: a class token, two heads, a residual linear layer, Gelu spelt out.
fn attention() -> ModelWriter {
    ModelWriter::new(17, &[FREE, 3, 4, 4])
        .weights("patch", &[6, 3, 2, 2])
        .node("Conv", &["x", "patch"], &["c"], &[ints("strides", &[2, 2])])
        .ints("rows", &[0, 6, -1])
        .node("Reshape", &["c", "rows"], &["r"], &[])
        .node("Transpose", &["r"], &["t"], &[ints("perm", &[0, 2, 1])])
        .weights("token", &[1, 1, 6])
        .node("Concat", &["token", "t"], &["z"], &[int("axis", 1)])
        .weights("position", &[1, 5, 6])
        .node("Add", &["z", "position"], &["zp"], &[])
        .weights("qkv", &[6, 18])
        .weights("qkv.b", &[18])
        .node("MatMul", &["zp", "qkv"], &["m"], &[])
        .node("Add", &["qkv.b", "m"], &["mb"], &[])
        .ints("heads", &[-1, 5, 3, 2, 3])
        .node("Reshape", &["mb", "heads"], &["h"], &[])
        .node(
            "Transpose",
            &["h"],
            &["ht"],
            &[ints("perm", &[2, 0, 3, 1, 4])],
        )
        .node("Split", &["ht"], &["q1", "k1", "v1"], &[int("axis", 0)])
        .ints("first", &[0])
        .node("Squeeze", &["q1", "first"], &["q"], &[])
        .node("Squeeze", &["k1", "first"], &["k"], &[])
        .node("Squeeze", &["v1", "first"], &["v"], &[])
        .node("Transpose", &["k"], &["kt"], &[ints("perm", &[0, 1, 3, 2])])
        .node("MatMul", &["q", "kt"], &["scores"], &[])
        .floats("root", &[], &[0.577])
        .node("Mul", &["scores", "root"], &["scaled"], &[])
        .node("Softmax", &["scaled"], &["p"], &[int("axis", -1)])
        .node("MatMul", &["p", "v"], &["o"], &[])
        .node("Transpose", &["o"], &["ot"], &[ints("perm", &[0, 2, 1, 3])])
        .ints("joined", &[-1, 5, 6])
        .node("Reshape", &["ot", "joined"], &["oj"], &[])
        .weights("out", &[6, 6])
        .node("MatMul", &["oj", "out"], &["om"], &[])
        .weights("gamma", &[6])
        .node("Mul", &["om", "gamma"], &["og"], &[])
        .node("Add", &["zp", "og"], &["res"], &[])
        .weights("mlp", &[6, 8])
        .node("MatMul", &["res", "mlp"], &["u"], &[])
        .floats("root2", &[], &[std::f32::consts::SQRT_2])
        .floats("one", &[], &[1.0])
        .floats("half", &[], &[0.5])
        .node("Div", &["u", "root2"], &["u1"], &[])
        .node("Erf", &["u1"], &["u2"], &[])
        .node("Add", &["u2", "one"], &["u3"], &[])
        .node("Mul", &["u", "u3"], &["u4"], &[])
        .node("Mul", &["u4", "half"], &["gelu"], &[])
        .node("Constant", &[], &["at"], &[int("value_int", 0)])
        .node("Gather", &["gelu", "at"], &["class"], &[int("axis", 1)])
        .node("LogSoftmax", &["class"], &["y"], &[int("axis", 1)])
}

/// Every function of two computed numbers, broadcast both ways.
fn binaries() -> ModelWriter {
    let mut model = ModelWriter::new(17, &[FREE, 3, 3, 2])
        .floats("half", &[], &[0.5])
        .node("Add", &["x", "half"], &["a"], &[])
        .node("ReduceMean", &["a"], &["b"], &[ints("axes", &[1])])
        .node("ReduceSum", &["a"], &["c"], &[int("keepdims", 1)]);
    let mut outputs = Vec::new();
    for (i, op) in ["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"]
        .into_iter()
        .enumerate()
    {
        for (j, (left, right)) in [("a", "b"), ("b", "a"), ("c", "b")].into_iter().enumerate() {
            let (output, flat) = (format!("y{i}{j}"), format!("f{i}{j}"));
            model = model.node(op, &[left, right], &[&output], &[]).node(
                "Flatten",
                &[&output],
                &[&flat],
                &[],
            );
            outputs.push(flat);
        }
    }
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    model.node("Concat", &outputs, &["y"], &[int("axis", 1)])
}

fn moves() -> ModelWriter {
    ModelWriter::new(17, &[FREE, 3, 5, 4])
        .ints("from", &[4, 1])
        .ints("to", &[0, 4])
        .ints("axes", &[2, 3])
        .ints("by", &[-2, 1])
        .node("Slice", &["x", "from", "to", "axes", "by"], &["s"], &[])
        .ints("pads", &[0, 0, 1, 1, 0, 0, 1, 2])
        .node(
            "Pad",
            &["s", "pads"],
            &["reflected"],
            &[string("mode", "reflect")],
        )
        .node("Pad", &["s", "pads"], &["edged"], &[string("mode", "edge")])
        .floats("value", &[], &[0.7])
        .node("Pad", &["s", "pads", "value"], &["constant"], &[])
        .node(
            "Concat",
            &["reflected", "edged", "constant"],
            &["all"],
            &[int("axis", 1)],
        )
        .ints("at", &[5, 0, 5, -1])
        .node("Gather", &["all", "at"], &["g"], &[int("axis", 1)])
        .node("Transpose", &["g"], &["t"], &[ints("perm", &[0, 3, 1, 2])])
        .ints("apart", &[0, 6, 1, 16])
        .node("Reshape", &["t", "apart"], &["r"], &[])
        .ints("wide", &[1, 6, 2, 16])
        .node("Expand", &["r", "wide"], &["e"], &[])
        .node("Flatten", &["e"], &["f"], &[])
        .node("Flatten", &["x"], &["fx"], &[])
        .node("Concat", &["f", "fx"], &["y"], &[int("axis", 1)])
}

fn reductions() -> ModelWriter {
    let mut model = ModelWriter::new(13, &[FREE, 3, 4, 3]);
    let mut outputs = Vec::new();
    for (i, (op, attributes)) in [
        ("ReduceMean", vec![ints("axes", &[1, 3])]),
        ("ReduceMax", vec![ints("axes", &[2, 3]), int("keepdims", 0)]),
        ("ReduceMax", vec![ints("axes", &[1])]),
        ("ReduceL2", vec![ints("axes", &[-1])]),
        ("ReduceMin", vec![ints("axes", &[1, 2])]),
        ("ReduceL1", vec![ints("axes", &[1, 2]), int("keepdims", 0)]),
        ("ReduceSumSquare", vec![ints("axes", &[2])]),
        ("ReduceLogSum", vec![ints("axes", &[1]), int("keepdims", 0)]),
        (
            "ReduceLogSumExp",
            vec![ints("axes", &[1, 3]), int("keepdims", 0)],
        ),
        ("GlobalMaxPool", vec![]),
        ("Softmax", vec![int("axis", 2)]),
        ("LogSoftmax", vec![int("axis", 1)]),
    ]
    .into_iter()
    .enumerate()
    {
        let (output, flat) = (format!("y{i}"), format!("f{i}"));
        model = model.node(op, &["x"], &[&output], &attributes).node(
            "Flatten",
            &[&output],
            &[&flat],
            &[],
        );
        outputs.push(flat);
    }
    model = model
        .node("ReduceSum", &["x", "axes"], &["total"], &[])
        .ints("axes", &[2])
        .node("Flatten", &["total"], &["f"], &[]);
    outputs.push("f".into());
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    model.node("Concat", &outputs, &["y"], &[int("axis", 1)])
}

fn normalization() -> ModelWriter {
    ModelWriter::new(17, &[FREE, 3, 4, 3])
        .weights("s", &[3])
        .weights("b", &[3])
        .node("InstanceNormalization", &["x", "s", "b"], &["i"], &[])
        .node("Transpose", &["i"], &["t"], &[ints("perm", &[0, 2, 3, 1])])
        .node(
            "LayerNormalization",
            &["t", "s", "b"],
            &["l"],
            &[float("epsilon", 1e-6)],
        )
        .weights("s2", &[3, 3])
        .node(
            "LayerNormalization",
            &["l", "s2"],
            &["m"],
            &[int("axis", 2)],
        )
        .node("Flatten", &["m"], &["y"], &[])
}

/// Normalization by groups, by neighbors and by a norm, and functions of more than one operation.
fn local_normalization() -> ModelWriter {
    ModelWriter::new(18, &[FREE, 3, 3, 4])
        .weights("w", &[6, 3, 1, 1])
        .node("Conv", &["x", "w"], &["c"], &[])
        .weights("s", &[3])
        .weights("b", &[3])
        .node(
            "GroupNormalization",
            &["c", "s", "b"],
            &["g"],
            &[int("num_groups", 3)],
        )
        .weights("slope", &[6, 1, 1])
        .node("PRelu", &["g", "slope"], &["p"], &[])
        .node(
            "LRN",
            &["p"],
            &["n"],
            &[int("size", 4), float("alpha", 0.7), float("bias", 1.5)],
        )
        .node("LpNormalization", &["n"], &["l"], &[int("axis", 1)])
        .node("Softsign", &["l"], &["o"], &[])
        .weights("offset", &[6, 1, 1])
        .node("Mean", &["o", "offset", "l"], &["m"], &[])
        .node("Flatten", &["m"], &["y"], &[])
}

/// Pictures of other sizes, and pixels exchanged with channels.
fn resizing() -> ModelWriter {
    let mut model = ModelWriter::new(18, &[FREE, 3, 4, 6])
        .floats("up", &[4], &[1.0, 1.0, 1.5, 2.0])
        .ints("down", &[3, 2])
        .node("Constant", &[], &["last"], &[int("value_int", -1)])
        .node("SpaceToDepth", &["x"], &["deep"], &[int("blocksize", 2)])
        .node(
            "DepthToSpace",
            &["deep"],
            &["wide"],
            &[int("blocksize", 2), string("mode", "CRD")],
        )
        .node(
            "CumSum",
            &["wide", "last"],
            &["sum"],
            &[int("exclusive", 1)],
        );
    let sizes = ["x", "", "", "down"];
    let scales = ["x", "", "up"];
    let axes = ints("axes", &[2, -1]);
    let mut outputs = vec!["sum".to_string()];
    for (i, (inputs, attributes)) in [
        (&scales[..], vec![]),
        (&scales, vec![string("mode", "linear")]),
        (&sizes, vec![string("mode", "cubic"), axes.clone()]),
        (
            &sizes,
            vec![string("mode", "linear"), int("antialias", 1), axes],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let output = format!("r{i}");
        model = model.node("Resize", inputs, &[&output], &attributes);
        outputs.push(output);
    }
    rows(model, &outputs)
}

/// Elements chosen by constant conditions, of which some are infinite.
fn choices() -> ModelWriter {
    let mask = |i: i64| f32::from(i % 3 != 1);
    let masks: Vec<f32> = (0..9).map(mask).collect();
    let model = ModelWriter::new(17, &[FREE, 3, 3, 3])
        .floats("masks", &[3, 3], &masks)
        .node("Cast", &["masks"], &["is"], &[int("to", 9)])
        .floats("never", &[], &[f32::NEG_INFINITY])
        .floats("half", &[], &[0.5])
        .node("Where", &["is", "x", "never"], &["scores"], &[])
        .node("Softmax", &["scores"], &["p"], &[])
        .node("Sub", &["half", "x"], &["other"], &[])
        .node("Where", &["is", "other", "x"], &["either"], &[])
        .node("Where", &["is", "half", "x"], &["filled"], &[])
        .node("Trilu", &["x"], &["upper"], &[])
        .node("Trilu", &["x", "one"], &["lower"], &[int("upper", 0)])
        .node("Constant", &[], &["one"], &[int("value_int", 1)]);
    rows(model, &["p", "either", "filled", "upper", "lower"])
}

/// Convolutions and pools of one dimension.
fn signals() -> ModelWriter {
    ModelWriter::new(17, &[FREE, 3, 3, 4])
        .ints("flat", &[0, 3, 12])
        .node("Reshape", &["x", "flat"], &["s"], &[])
        .weights("w", &[4, 3, 3])
        .weights("b", &[4])
        .node(
            "Conv",
            &["s", "w", "b"],
            &["c"],
            &[ints("pads", &[1, 2]), ints("strides", &[2])],
        )
        .norm("n", "c", &[0.5, 1.0, 0.2, 0.7])
        .node("MaxPool", &["n"], &["m"], &[ints("kernel_shape", &[2])])
        .node(
            "AveragePool",
            &["m"],
            &["a"],
            &[ints("kernel_shape", &[3]), ints("pads", &[1, 1])],
        )
        .node("Flatten", &["a"], &["y"], &[])
}

/// Every tensor flattened, one after the other.
fn rows(mut model: ModelWriter, tensors: &[impl AsRef<str>]) -> ModelWriter {
    let mut flat = Vec::new();
    for tensor in tensors {
        let output = format!("{}.flat", tensor.as_ref());
        model = model.node("Flatten", &[tensor.as_ref()], &[&output], &[]);
        flat.push(output);
    }
    let flat: Vec<&str> = flat.iter().map(String::as_str).collect();
    model.node("Concat", &flat, &["y"], &[int("axis", 1)])
}
