//! Files that are damaged, hostile, or ask for what cannot be run: always an error, never more.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::classifier::onnx::proto::{DataType, Tensor as Stored};
use crate::classifier::onnx::write::*;

/// More than any of these files may take, on a busy machine too.
const TOO_LONG: Duration = Duration::from_secs(20);

/// A small model of everything that real ones have.
fn small() -> ModelWriter {
    ModelWriter::new(17, &[FREE, 3, 8, 8])
        .weights("w", &[4, 3, 3, 3])
        .weights("s", &[4])
        .weights("b", &[4])
        .floats("var", &[4], &[1.0, 2.0, 0.5, 1.5])
        .weights("fc", &[5, 4])
        .ints("rest", &[-1])
        .ints("pads", &[0, 0, 1, 1, 0, 0, 1, 1])
        .node("Pad", &["x", "pads"], &["p"], &[string("mode", "constant")])
        .node(
            "Conv",
            &["p", "w"],
            &["c"],
            &[
                ints("strides", &[2, 2]),
                ints("kernel_shape", &[3, 3]),
                int("group", 1),
            ],
        )
        .node(
            "BatchNormalization",
            &["c", "s", "b", "b", "var"],
            &["n"],
            &[],
        )
        .node("Relu", &["n"], &["r"], &[])
        .node("MaxPool", &["r"], &["m"], &[ints("kernel_shape", &[2, 2])])
        .node("GlobalAveragePool", &["m"], &["g"], &[])
        .node(
            "Shape",
            &["g"],
            &["shape"],
            &[int("start", 0), int("end", 1)],
        )
        .node("Concat", &["shape", "rest"], &["to"], &[int("axis", 0)])
        .node("Reshape", &["g", "to"], &["f"], &[])
        .node("Gemm", &["f", "fc"], &["y"], &[int("transB", 1)])
}

fn load(bytes: &[u8]) -> crate::error::Result<Graph> {
    let (_folder, path) = saved(bytes);
    Graph::load(&path, &LoadOptions::default())
}

/// The error of a model that must have one, which is one line that names the file.
fn refusal(model: &ModelWriter) -> String {
    let start = Instant::now();
    let error = model.load().unwrap_err().to_string();
    assert!(start.elapsed() < TOO_LONG, "{error}");
    assert!(error.contains("model.onnx"), "{error}");
    assert!(!error.contains('\n'), "{error}");
    error
}

fn assert_refused(model: &ModelWriter, reason: &str) {
    let error = refusal(model);
    assert!(error.contains(reason), "{error}");
}

#[test]
fn what_is_not_onnx() {
    for bytes in [
        &b""[..],
        b"\x89PNG\r\n\x1a\n",
        b"hello, world",
        &[0xff; 100],
    ] {
        let error = load(bytes).unwrap_err().to_string();
        assert!(error.contains("not an ONNX model"), "{error}");
    }
    for (text, what) in [
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 5\n",
            "is a Git LFS pointer",
        ),
        ("\n<!DOCTYPE html>\n<html></html>", "is an HTML page"),
        (
            "\u{feff}<!-- saved -->\n<HTML lang=\"en\">",
            "is an HTML page",
        ),
    ] {
        let error = load(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(what) && !error.contains('\n'), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path(), &folder.path().join("absent.onnx")] {
        let error = Graph::load(path, &LoadOptions::default()).unwrap_err();
        assert!(error.to_string().contains(&*path.to_string_lossy()));
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = small().bytes();
    load(&bytes).unwrap();
    for length in 0..bytes.len() {
        assert!(load(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn opsets() {
    for (opset, fine) in [(6, false), (7, true), (26, true), (27, false), (-1, false)] {
        let model = ModelWriter::new(opset, &[FREE, 1, 2, 2]).node("Flatten", &["x"], &["y"], &[]);
        assert_eq!(model.load().is_ok(), fine, "{opset}");
        if !fine {
            assert_refused(&model, "7 to 26");
        }
    }
    let mut model = small();
    model.model.opset_import[0].domain = "com.example".into();
    assert_refused(&model, "no opset");
}

#[test]
fn broken_graphs() {
    let cyclic = ModelWriter::new(17, &[FREE, 1, 2, 2])
        .node("Add", &["x", "b"], &["a"], &[])
        .node("Relu", &["a"], &["b"], &[])
        .node("Flatten", &["b"], &["y"], &[]);
    assert_refused(&cyclic, "cyclic");
    let unknown = ModelWriter::new(17, &[FREE, 1, 2, 2])
        .node("Add", &["x", "nowhere"], &["a"], &[])
        .node("Flatten", &["a"], &["y"], &[]);
    assert_refused(&unknown, "\"nowhere\", which nothing defines");
    let twice = small().node("Relu", &["x"], &["r"], &[]);
    assert_refused(&twice, "\"r\" twice");
    let twice = small().weights("w", &[1]);
    assert_refused(&twice, "\"w\" twice");
    let mut inputs = small();
    inputs.graph().input.push(info("z", &[1]));
    assert_refused(&inputs, "more than one input");
    let mut inputs = small();
    inputs.graph().input.clear();
    assert_refused(&inputs, "no input");
    let mut outputs = small();
    outputs.graph().output[0].name = "nothing".into();
    assert_refused(&outputs, "\"nothing\" is defined by nothing");
    let constant = ModelWriter::new(17, &[FREE, 1, 2, 2])
        .weights("w", &[1, 4])
        .node("Relu", &["w"], &["y"], &[]);
    assert_refused(&constant, "depends on the image");

    // Order does not matter, and initializers may be listed as inputs, as old exporters do.
    let mut shuffled = small();
    shuffled.graph().node.reverse();
    shuffled.graph().input.push(info("w", &[4, 3, 3, 3]));
    assert_eq!(
        logits(&shuffled.load().unwrap()),
        logits(&small().load().unwrap())
    );
}

#[test]
fn tensors_that_are_not_what_they_declare() {
    let with = |change: &dyn Fn(&mut Stored)| {
        let mut model = small();
        change(&mut model.graph().initializer[0]);
        model
    };
    assert_refused(
        &with(&|t| t.dims = vec![4, 3, 3, 4]),
        "its shape [4, 3, 3, 4] needs",
    );
    assert_refused(&with(&|t| t.dims = vec![i64::MAX, 2]), "overflows");
    assert_refused(
        &with(&|t| t.dims = vec![1 << 31, 1 << 31, 1 << 31]),
        "overflows",
    );
    assert_refused(&with(&|t| t.dims[0] = -4), "has shape");
    assert_refused(&with(&|t| t.data_type = DataType::String as i32), "String");
    assert_refused(&with(&|t| t.data_type = 99), "type 99");
    assert_refused(&with(&|t| t.data_type = DataType::Double as i32), "864");
    let typed = with(&|t| {
        t.raw_data = Default::default();
        t.float_data = vec![0.0; 107];
    });
    assert_refused(&typed, "107 elements");
}

#[test]
fn constants_out_of_proportion() {
    let side = 1 << 20;
    let big = |op: &str| match op {
        "ConstantOfShape" => ModelWriter::new(17, &[FREE, 1, 2, 2])
            .ints("shape", &[side, side])
            .node("ConstantOfShape", &["shape"], &["t"], &[]),
        "Expand" | "Tile" => ModelWriter::new(17, &[FREE, 1, 2, 2])
            .ints("shape", &[side, side])
            .floats("one", &[1, 1], &[1.0])
            .node(op, &["one", "shape"], &["t"], &[]),
        "Pad" => ModelWriter::new(17, &[FREE, 1, 2, 2])
            .ints("pads", &[side, side])
            .floats("one", &[1], &[1.0])
            .node("Pad", &["one", "pads"], &["p"], &[])
            .ints("shape", &[16, 2 * side + 1])
            .node("Expand", &["p", "shape"], &["t"], &[]),
        _ => ModelWriter::new(17, &[FREE, 1, 2, 2])
            .node("Constant", &[], &["from"], &[int("value_int", 0)])
            .node("Constant", &[], &["to"], &[int("value_int", i64::MAX)])
            .node("Constant", &[], &["by"], &[int("value_int", 1 << 33)])
            .node("Range", &["from", "to", "by"], &["t"], &[]),
    };
    for op in ["ConstantOfShape", "Expand", "Tile", "Pad", "Range"] {
        let model = big(op).node("Flatten", &["t"], &["y"], &[]);
        assert_refused(&model, "out of proportion");
    }
    // Each of these doubles a constant, or what is computed.
    for start in ["one", "x"] {
        let mut model = ModelWriter::new(17, &[FREE, 1, 2, 2]).floats("one", &[1, 1, 1, 1], &[1.0]);
        let mut last = start.to_string();
        for i in 0..50 {
            let next = format!("t{i}");
            model = model.node("Concat", &[&last, &last], &[&next], &[int("axis", 3)]);
            last = next;
        }
        let model = model.node("Flatten", &[&last], &["y"], &[]);
        let error = refusal(&model);
        assert!(
            error.contains("out of proportion") || error.contains("too much memory"),
            "{error}"
        );
    }
    // Every layer keeps a copy of the weights that all of them share.
    let mut shared = ModelWriter::new(17, &[FREE, 1, 1, 2]).weights("w", &[2000, 2000]);
    shared =
        shared
            .ints("thousand", &[1, 1, 1, 1000])
            .node("Tile", &["x", "thousand"], &["t0"], &[]);
    for i in 0..300 {
        let (input, output) = (format!("t{i}"), format!("t{}", i + 1));
        shared = shared.node("MatMul", &[&input, "w"], &[&output], &[]);
    }
    let shared = shared.node("Flatten", &["t300"], &["y"], &[]);
    assert_refused(&shared, "out of proportion");
    // More axes than any tensor has.
    let mut deep = ModelWriter::new(17, &[FREE, 1, 2, 2])
        .ints("axes", &(0..1000).collect::<Vec<_>>())
        .node("Unsqueeze", &["x", "axes"], &["t"], &[])
        .node("Flatten", &["t"], &["y"], &[]);
    assert_refused(&deep, "rank 1004");
    deep.graph().initializer[0].dims = vec![1; 1 << 20];
    assert_refused(&deep, "rank 33");
    // A product of constants that takes long rather than much memory.
    let slow = ModelWriter::new(17, &[FREE, 1, 2, 2])
        .weights("a", &[1500, 1500])
        .node("MatMul", &["a", "a"], &["t"], &[])
        .node("Flatten", &["t"], &["y"], &[]);
    assert_refused(&slow, "takes too long");
}

#[test]
fn lists_every_node_that_cannot_be_run() {
    let mut model = ModelWriter::new(17, &[FREE, 3, 4, 4])
        .weights("w", &[2, 3, 3, 3])
        .node("Det", &["x"], &["a"], &[])
        .node("Relu", &["a"], &["b"], &[])
        .node("Conv", &["x", "w"], &["c"], &[int("mystery", 1)])
        .node(
            "MaxPool",
            &["x"],
            &["d", "indices"],
            &[ints("kernel_shape", &[2, 2])],
        )
        .node("Conv", &["x", "b"], &["e"], &[])
        .node("Custom", &["e"], &["f"], &[])
        .node("Sum", &["b", "c", "d", "f", "indices"], &["t"], &[])
        .node("Flatten", &["t"], &["y"], &[]);
    model.graph().node[5].domain = "com.example".into();
    let error = refusal(&model);
    for part in [
        "4 nodes cannot be run",
        "node_a (Det): is not supported",
        "node_c (Conv): attribute mystery is not supported",
        "node_d (MaxPool): only 1 of its outputs is supported",
        "node_f (com.example::Custom): is not supported",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let names = model.graph().node.iter_mut();
    for node in names {
        node.name = "two\nlines".into();
    }
    assert_refused(&model, "two lines (Det)");
}

#[test]
fn what_an_operator_cannot_take() {
    let one = |op: &str, others: &[&str], attributes: &[_]| {
        ModelWriter::new(17, &[FREE, 3, 4, 4])
            .weights("w", &[2, 3, 3, 3])
            .weights("v", &[3])
            .ints("n", &[3])
            .node(op, &[&["x"], others].concat(), &["t"], attributes)
            .node("Flatten", &["t"], &["y"], &[])
    };
    for (op, others, attributes, reason) in [
        ("Conv", &["x"][..], vec![], "depends on the image"),
        ("Conv", &["v"], vec![], "NCHW"),
        ("Conv", &["n"], vec![], "not float"),
        ("Conv", &["w"], vec![int("group", 0)], "groups"),
        ("Conv", &["w"], vec![int("group", -3)], "not a size"),
        ("Conv", &["w"], vec![ints("strides", &[0, 1])], "strides"),
        ("Conv", &["w"], vec![ints("strides", &[1])], "strides"),
        ("Conv", &["w"], vec![ints("pads", &[1, 1])], "pads"),
        (
            "Conv",
            &["w"],
            vec![ints("pads", &[-1, 0, 0, 0])],
            "not a size",
        ),
        (
            "Conv",
            &["w"],
            vec![ints("pads", &[1 << 30; 4])],
            "not supported",
        ),
        (
            "Conv",
            &["w"],
            vec![ints("dilations", &[9, 9])],
            "reaches over",
        ),
        ("Conv", &["w"], vec![int("strides", 1)], "not of type"),
        ("Conv", &["w", "v"], vec![], "bias"),
        ("MaxPool", &[], vec![], "kernel"),
        (
            "MaxPool",
            &[],
            vec![ints("kernel_shape", &[1 << 31, 1 << 31])],
            "kernel",
        ),
        ("Transpose", &[], vec![ints("perm", &[0, 1, 1, 2])], "twice"),
        ("Transpose", &[], vec![ints("perm", &[0, 1])], "perm"),
        ("Concat", &["v"], vec![int("axis", 1)], "join"),
        ("Concat", &[], vec![int("axis", 9)], "beyond rank"),
        ("Softmax", &[], vec![int("axis", i64::MIN)], "beyond rank"),
        ("Gather", &["n"], vec![int("axis", 1)], "beyond an axis"),
        ("Add", &["n"], vec![], "integer"),
        ("Add", &["w"], vec![], "broadcast"),
        ("MatMul", &["v"], vec![], "multiply"),
        ("Reshape", &["n"], vec![], "reshape"),
        ("Cast", &[], vec![int("to", 7)], "cast to integers"),
        ("Relu", &[], vec![float("alpha", 1.0)], "attribute alpha"),
        ("Add", &[""], vec![], "input 2 is missing"),
    ] {
        let what = format!("{op} {others:?} {attributes:?}");
        let error = refusal(&one(op, others, &attributes));
        assert!(error.contains(reason), "{what}: {error}");
    }
    let training = one(
        "BatchNormalization",
        &["v", "v", "v", "v"],
        &[int("training_mode", 1)],
    );
    assert_refused(&training, "evaluation mode");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever happens to a file, loading it ends, soon, without a panic.
    #[test]
    fn damage_never_panics(
        which in prop::option::of(any::<prop::sample::Index>()),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let all = samples();
        let model = which.map_or_else(small, |which| all[which.index(all.len())].1.clone());
        let mut bytes = model.bytes();
        for (place, mask) in &flips {
            let place = place.index(bytes.len());
            bytes[place] ^= mask;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let start = Instant::now();
        match load(&bytes) {
            Err(error) => prop_assert!(!error.to_string().contains('\n')),
            // What loads also runs.
            Ok(graph) if graph.values.iter().map(|v| v.elements()).sum::<usize>() < 1 << 20 => {
                prop_assert_eq!(logits(&graph).len(), graph.classes());
            }
            Ok(_) => {}
        }
        prop_assert!(start.elapsed() < TOO_LONG);
    }
}
