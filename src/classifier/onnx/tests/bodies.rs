//! Functions of a file and branches of an `If`, also such as no exporter writes.

use std::time::{Duration, Instant};

use super::*;
use crate::classifier::onnx::proto::{
    Attribute, AttributeKind, DataType, Function, Graph as Branch, Node, Tensor,
};
use crate::classifier::onnx::write::*;

/// More than any of these files may take, on a busy machine too.
const TOO_LONG: Duration = Duration::from_secs(20);

fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: &[Attribute]) -> Node {
    let mut model = ModelWriter::new(17, &[1]).node(op, inputs, outputs, attributes);
    model.graph().node.remove(0)
}

/// A call of a function.
fn call(name: &str, inputs: &[&str], outputs: &[&str]) -> Node {
    Node {
        domain: "local".into(),
        ..node(name, inputs, outputs, &[])
    }
}

fn function(name: &str, nodes: Vec<Node>) -> Function {
    Function {
        name: name.into(),
        domain: "local".into(),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: nodes,
        ..Function::default()
    }
}

/// A picture through these nodes, from `x` to `t`, then flattened.
fn with(functions: Vec<Function>, nodes: Vec<Node>) -> ModelWriter {
    let mut model = ModelWriter::new(17, &[FREE, 1, 2, 2]);
    model.graph().node = nodes;
    model.model.functions = functions;
    model.node("Flatten", &["t"], &["y"], &[])
}

fn branch(name: &str, nodes: Vec<Node>, output: &str) -> Attribute {
    Attribute {
        name: name.into(),
        kind: AttributeKind::Graph as i32,
        g: Some(Box::new(Branch {
            node: nodes,
            output: vec![info(output, &[])],
            ..Branch::default()
        })),
        ..Attribute::default()
    }
}

/// `If` of a constant condition `yes`.
fn choice(condition: bool, then: Attribute, other: Attribute) -> ModelWriter {
    let mut model = with(vec![], vec![node("If", &["yes"], &["t"], &[then, other])]);
    model.graph().initializer.push(Tensor {
        name: "yes".into(),
        data_type: DataType::Bool as i32,
        int32_data: vec![condition.into()],
        ..Tensor::default()
    });
    model
}

fn refusal(model: &ModelWriter) -> String {
    let start = Instant::now();
    let error = model.load().unwrap_err().to_string();
    assert!(start.elapsed() < TOO_LONG, "{error}");
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn a_function_s_names_are_its_own() {
    let double = function(
        "Double",
        vec![
            node("Neg", &["a"], &["x"], &[]),
            node("Sub", &["a", "x"], &["b"], &[]),
        ],
    );
    let calls = vec![
        call("Double", &["x"], &["b"]),
        call("Double", &["b"], &["t"]),
    ];
    let graph = with(vec![double], calls).load().unwrap();
    let expected: Vec<f64> = picture(4).into_iter().map(|x| 4.0 * x).collect();
    assert_close(&logits(&graph), &expected, 1e-9, "double");
}

#[test]
fn one_of_two_branches() {
    for condition in [true, false] {
        let then = branch("then_branch", vec![node("Neg", &["x"], &["n"], &[])], "n");
        let other = branch("else_branch", vec![], "x");
        let graph = choice(condition, then, other).load().unwrap();
        let sign = if condition { -1.0 } else { 1.0 };
        let expected: Vec<f64> = picture(4).into_iter().map(|x| sign * x).collect();
        assert_eq!(logits(&graph), expected);
    }
}

/// What is wrong in a body is said of the node that stands for it, or of the node in it.
#[test]
fn refusals_name_the_place() {
    let odd = function("Odd", vec![node("Det", &["a"], &["b"], &[])]);
    let calls = vec![call("Odd", &["x"], &["t"])];
    let error = refusal(&with(vec![odd], calls));
    assert!(
        error.contains("node_t/node_b (Det): is not supported"),
        "{error}"
    );

    let unknown = vec![call("Nothing", &["x"], &["t"])];
    let error = refusal(&with(vec![], unknown));
    assert!(
        error.contains("(local::Nothing): is not supported"),
        "{error}"
    );

    for (nodes, reason) in [
        (
            vec![node("Neg", &["x"], &["b"], &[])],
            "takes \"x\", which nothing defines",
        ),
        (
            vec![node("Neg", &["a"], &["c"], &[])],
            "its \"b\" is defined by nothing",
        ),
        (vec![node("Neg", &["a"], &["a"], &[])], "\"a\" twice"),
        (vec![node("Neg", &["b"], &["b"], &[])], "cyclic"),
    ] {
        let calls = vec![call("F", &["x"], &["t"])];
        let error = refusal(&with(vec![function("F", nodes)], calls));
        assert!(
            error.contains("node_t (local::F)") && error.contains(reason),
            "{error}"
        );
    }
    let f = || function("F", vec![node("Neg", &["a"], &["b"], &[])]);
    let error = refusal(&with(vec![f()], vec![call("F", &["x", "x"], &["t"])]));
    assert!(
        error.contains("it has 2 inputs, and its function 1"),
        "{error}"
    );
    let mut odd = call("F", &["x"], &["t"]);
    odd.attribute.push(int("mystery", 1));
    let error = refusal(&with(vec![f()], vec![odd]));
    assert!(
        error.contains("attribute mystery is not one of its function's"),
        "{error}"
    );

    let branches = || {
        [
            branch("then_branch", vec![], "x"),
            branch("else_branch", vec![], "x"),
        ]
    };
    let on_the_image = vec![node("If", &["x"], &["t"], &branches())];
    let error = refusal(&with(vec![], on_the_image));
    assert!(error.contains("depends on the image"), "{error}");
    let [then, _] = branches();
    let error = refusal(&choice(false, then.clone(), then));
    assert!(error.contains("its else_branch is missing"), "{error}");
}

#[test]
fn a_function_that_calls_itself() {
    let f = function("F", vec![call("F", &["a"], &["b"])]);
    let error = refusal(&with(vec![f], vec![call("F", &["x"], &["t"])]));
    assert!(error.contains("too deep"), "{error}");
    let f = function("F", vec![call("G", &["a"], &["b"])]);
    let g = function(
        "G",
        vec![call("F", &["a"], &["c"]), call("F", &["c"], &["b"])],
    );
    refusal(&with(vec![f, g], vec![call("F", &["x"], &["t"])]));
}

/// Each function calls the one before many times: more nodes than any machine could hold.
#[test]
fn functions_that_multiply() {
    let chain = |of: &dyn Fn(&str, &str) -> Node| {
        let name = |i: usize| {
            if i == 0 {
                "a".to_string()
            } else {
                format!("t{i}")
            }
        };
        let mut nodes: Vec<Node> = (0..10).map(|i| of(&name(i), &name(i + 1))).collect();
        nodes.push(node("Identity", &["t10"], &["b"], &[]));
        nodes
    };
    let neg = |a: &str, b: &str| node("Neg", &[a], &[b], &[]);
    let mut functions = vec![function("F0", chain(&neg))];
    for i in 1..20 {
        let before = format!("F{}", i - 1);
        let again = |a: &str, b: &str| call(&before, &[a], &[b]);
        functions.push(function(&format!("F{i}"), chain(&again)));
    }
    let error = refusal(&with(functions, vec![call("F19", &["x"], &["t"])]));
    assert!(error.contains("cannot be run"), "{error}");

    // A constant that every call makes anew.
    let constant = Tensor {
        dims: vec![1 << 20],
        data_type: DataType::Float as i32,
        raw_data: vec![0; 4 << 20].into(),
        ..Tensor::default()
    };
    let large = function(
        "Large",
        vec![
            node("Constant", &[], &["c"], &[tensor("value", constant)]),
            node("Identity", &["c"], &["b"], &[]),
        ],
    );
    let names: Vec<String> = (0..1000).map(|i| format!("c{i}")).collect();
    let mut calls: Vec<Node> = (names.iter())
        .map(|c| call("Large", &["x"], &[c]))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    calls.push(node("Sum", &names, &["t"], &[]));
    let error = refusal(&with(vec![large], calls));
    assert!(error.contains("out of proportion"), "{error}");
}

#[test]
fn branches_too_deep() {
    let nested = |depth: usize| {
        let mut inner = vec![node("Neg", &["x"], &["o"], &[])];
        for _ in 0..depth {
            let branches = [
                branch("then_branch", inner.clone(), "o"),
                branch("else_branch", vec![], "x"),
            ];
            inner = vec![node("If", &["yes"], &["o"], &branches)];
        }
        let then = branch("then_branch", inner, "o");
        choice(true, then, branch("else_branch", vec![], "x"))
    };
    nested(20).load().unwrap();
    let error = refusal(&nested(40));
    assert!(error.contains("deeper than any"), "{error}");
}
