use std::collections::BTreeMap;

use crate::backend::reference::ReferenceClassifier;
use crate::classifier::function::Function;
use crate::classifier::graph::{Graph, Op};
use crate::classifier::onnx::samples::{picture, samples};
use crate::classifier::onnx::write::*;

fn logits(graph: &Graph) -> Vec<f64> {
    let pixels = picture(graph.input_shape().elements());
    ReferenceClassifier::new(graph).logits_f64(&pixels).unwrap()
}

/// How often each operation occurs, by its name; functions by their own.
fn counts(graph: &Graph) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for node in &graph.nodes {
        let mut name = node.op.name().to_string();
        if let Op::Map(function) = node.op {
            name = format!("{function:?}");
        }
        if let Some(function) = node.op.activation() {
            name = format!("{name}+{function:?}");
        }
        if node.inputs.len() == 4 {
            name += "+residual";
        }
        *counts.entry(name).or_default() += 1;
    }
    counts
}

fn assert_counts(name: &str, expected: &[(&str, usize)]) {
    let model = samples().into_iter().find(|sample| sample.0 == name);
    let graph = model.unwrap().1.load().unwrap();
    let expected = expected.iter().map(|&(name, n)| (name.to_string(), n));
    assert_eq!(counts(&graph), expected.collect());
}

fn assert_same_logits(before: &Graph, after: &Graph) {
    for (a, b) in logits(after).iter().zip(logits(before)) {
        assert!((a - b).abs() < 1e-6 * b.abs().max(1.0), "{a} against {b}");
    }
}

#[test]
fn passes_leave_logits_as_they_are() {
    for (name, model) in samples() {
        let (before, after) = (model.import().unwrap(), model.load().unwrap());
        assert!(after.nodes.len() <= before.nodes.len(), "{name}");
        let (expected, got) = (logits(&before), logits(&after));
        let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (a, b) in got.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-6 * largest, "{name}: {a} against {b}");
        }
    }
}

#[test]
fn every_value_of_a_loaded_graph_is_used_and_made_before_it_is() {
    for (name, model) in samples() {
        let graph = model.load().unwrap();
        let mut known: Vec<bool> = graph.values.iter().map(|v| v.data.is_some()).collect();
        known[graph.input.0] = true;
        let mut used = vec![false; graph.values.len()];
        used[graph.output.0] = true;
        for node in &graph.nodes {
            for input in &node.inputs {
                assert!(known[input.0], "{name}: {}", node.name);
                used[input.0] = true;
            }
            assert!(!std::mem::replace(&mut known[node.output.0], true));
        }
        assert!(used.into_iter().chain(known).all(|fine| fine), "{name}");
    }
}

#[test]
fn residual_blocks_become_convolutions() {
    assert_counts(
        "residual",
        &[
            ("Conv", 1),
            ("Conv+LeakyRelu { alpha: 0.01 }", 1),
            ("Conv+Relu", 2),
            ("Conv+Relu+residual", 2),
            ("Gemm", 1),
            ("Reduce", 1),
            ("Reshape", 1),
            ("ScaleShift", 1),
        ],
    );
}

#[test]
fn spelt_out_activations_are_recognized() {
    assert_counts(
        "squeeze and excite",
        &[
            ("Binary", 1),
            ("Conv+Clip { low: 0.0, high: 6.0 }+residual", 1),
            ("Conv+HardSigmoid { alpha: 0.16666667, beta: 0.5 }", 1),
            ("Conv+HardSwish", 1),
            ("Conv+Mish", 1),
            ("Conv+Silu", 1),
            ("Gemm", 1),
            ("Reduce", 2),
            ("Reshape", 1),
        ],
    );
    let gelu = samples().into_iter().find(|sample| sample.0 == "attention");
    let graph = gelu.unwrap().1.load().unwrap();
    let fused = |node: &crate::classifier::Node| node.op.activation() == Some(Function::Gelu);
    assert_eq!(graph.nodes.iter().filter(|node| fused(node)).count(), 1);
    let residuals = graph.nodes.iter().filter(|node| node.inputs.len() == 4);
    assert_eq!(residuals.count(), 1);
}

#[test]
fn a_layer_that_two_nodes_read_is_left_alone() {
    assert_counts(
        "pre-activation",
        &[
            ("Binary", 1),
            ("Conv", 1),
            ("Conv+residual", 1),
            ("Gemm", 1),
            ("Reduce", 1),
            ("Reshape", 1),
            ("ScaleShift", 1),
            ("ScaleShift+Relu", 1),
        ],
    );
}

#[test]
fn lookalikes_are_not_fused() {
    // Not the sigmoid of what it multiplies; a third instead of a sixth; padding that is not zero.
    let model = ModelWriter::new(17, &[FREE, 3, 4, 4])
        .node("Relu", &["x"], &["r"], &[])
        .node("Sigmoid", &["r"], &["s"], &[])
        .node("Mul", &["x", "s"], &["a"], &[])
        .node("HardSigmoid", &["a"], &["h"], &[float("alpha", 1.0 / 3.0)])
        .node("Mul", &["a", "h"], &["b"], &[])
        .ints("pads", &[0, 0, 1, 1, 0, 0, 1, 1])
        .floats("value", &[], &[0.5])
        .node("Pad", &["b", "pads", "value"], &["p"], &[])
        .weights("w", &[2, 3, 3, 3])
        .node("Conv", &["p", "w"], &["c"], &[])
        .node("Pad", &["c", "pads"], &["q"], &[])
        .node("MaxPool", &["q"], &["m"], &[ints("kernel_shape", &[2, 2])])
        .node("Flatten", &["m"], &["y"], &[]);
    let (before, after) = (model.import().unwrap(), model.load().unwrap());
    assert_eq!(counts(&before), counts(&after));
    assert_eq!(logits(&before), logits(&after));
}

#[test]
fn moves_that_move_nothing_go() {
    let model = ModelWriter::new(17, &[FREE, 3, 4, 4])
        .ints("zeros", &[0; 8])
        .node("Pad", &["x", "zeros"], &["a"], &[])
        .node("Transpose", &["a"], &["b"], &[ints("perm", &[0, 2, 3, 1])])
        .node("Transpose", &["b"], &["c"], &[ints("perm", &[0, 3, 1, 2])])
        .ints("one", &[1])
        .ints("all", &[i64::MAX])
        .ints("zero", &[0])
        .node("Slice", &["c", "zero", "all", "one"], &["d"], &[])
        .node("Concat", &["d"], &["e"], &[int("axis", 1)])
        .node("Unsqueeze", &["e", "one"], &["f"], &[])
        .node(
            "Transpose",
            &["f"],
            &["g"],
            &[ints("perm", &[1, 0, 2, 3, 4])],
        )
        .node("Flatten", &["g"], &["y"], &[]);
    let (before, after) = (model.import().unwrap(), model.load().unwrap());
    assert_eq!(logits(&before), logits(&after));
    let (flat, count) = ("Reshape".to_string(), 1);
    assert_eq!(counts(&after), [(flat, count)].into());
}

/// Layer normalization of rows of 6 as one operator and spelt out twice, each before a linear layer.
#[test]
fn layer_normalization_goes_into_the_linear_layer_after_it() {
    let mut model = ModelWriter::new(17, &[FREE, 3, 4, 6])
        .weights("scale", &[6])
        .weights("shift", &[6])
        .weights("w", &[6, 6])
        .floats("two", &[], &[2.0])
        .floats("epsilon", &[], &[1e-3])
        .node("LayerNormalization", &["x", "scale", "shift"], &["n0"], &[])
        .node("MatMul", &["n0", "w"], &["x1"], &[]);
    let last = || [ints("axes", &[-1])];
    for (i, own_difference) in [(1, false), (2, true)] {
        let at = |name: &str| format!("{name}{i}");
        let (x, next) = (at("x"), format!("x{}", i + 1));
        let squared = if own_difference {
            at("again")
        } else {
            at("centered")
        };
        model = model
            .node("ReduceMean", &[&x], &[&at("mean")], &last())
            .node("Sub", &[&x, &at("mean")], &[&at("centered")], &[])
            .node("Sub", &[&x, &at("mean")], &[&at("again")], &[])
            .node("Pow", &[&squared, "two"], &[&at("squares")], &[])
            .node("ReduceMean", &[&at("squares")], &[&at("variance")], &last())
            .node("Add", &["epsilon", &at("variance")], &[&at("sum")], &[])
            .node("Sqrt", &[&at("sum")], &[&at("deviation")], &[])
            .node(
                "Div",
                &[&at("centered"), &at("deviation")],
                &[&at("standard")],
                &[],
            )
            .node("Mul", &[&at("standard"), "scale"], &[&at("scaled")], &[])
            .node("Add", &[&at("scaled"), "shift"], &[&at("normal")], &[])
            .node("MatMul", &[&at("normal"), "w"], &[&next], &[]);
    }
    let model = model.node("Flatten", &["x3"], &["y"], &[]);
    let (before, after) = (model.import().unwrap(), model.load().unwrap());
    let expected = [("Gemm", 3), ("Normalize", 3), ("Reshape", 1)];
    assert_eq!(
        counts(&after),
        expected.map(|(name, n)| (name.to_string(), n)).into()
    );
    assert_same_logits(&before, &after);
}

/// Not the mean of what it is subtracted from; a mean over other axes; a shift between the two.
#[test]
fn lookalikes_of_normalization_are_left_alone() {
    let axes = |axis: i64| [ints("axes", &[axis])];
    let model = ModelWriter::new(17, &[FREE, 3, 4, 6])
        .floats("two", &[], &[2.0])
        .floats("epsilon", &[], &[1e-3])
        .node("Relu", &["x"], &["r"], &[])
        .node("ReduceMean", &["r"], &["mean"], &axes(-1))
        .node("Sub", &["x", "mean"], &["centered"], &[])
        .node("Pow", &["centered", "two"], &["squares"], &[])
        .node("ReduceMean", &["squares"], &["variance"], &axes(2))
        .node("Add", &["variance", "epsilon"], &["sum"], &[])
        .node("Sqrt", &["sum"], &["deviation"], &[])
        .node("Div", &["centered", "deviation"], &["n"], &[])
        .node("Flatten", &["n"], &["y"], &[]);
    let (before, after) = (model.import().unwrap(), model.load().unwrap());
    assert!(!counts(&after).contains_key("Normalize"));
    assert_same_logits(&before, &after);
}

/// A chain of factors after a layer, and one before: one set of weights, the same logits.
#[test]
fn chains_of_factors_fold_into_one_layer() {
    let mut model = ModelWriter::new(17, &[FREE, 1, 1, 4]).weights("w", &[4, 4]);
    let mut last = "x".to_string();
    for i in 0..6 {
        let (factor, name) = (format!("f{i}"), format!("a{i}"));
        model = model.weights(&factor, &[4]);
        model = match i {
            3 => model.node("MatMul", &[&last, "w"], &[&name], &[]),
            1 | 4 => model.node("Add", &[&last, &factor], &[&name], &[]),
            _ => model.node("Mul", &[&last, &factor], &[&name], &[]),
        };
        last = name;
    }
    let model = model.node("Flatten", &[&last], &["y"], &[]);
    let (before, after) = (model.import().unwrap(), model.load().unwrap());
    let expected = [("Gemm", 1), ("Reshape", 1)];
    assert_eq!(
        counts(&after),
        expected.map(|(name, n)| (name.to_string(), n)).into()
    );
    assert_same_logits(&before, &after);
}
