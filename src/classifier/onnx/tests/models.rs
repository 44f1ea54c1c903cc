//! Whole models: the shape arithmetic of exports, inputs and outputs of every kind, weights of every
//! type.

use super::*;
use crate::classifier::graph::Op;
use crate::classifier::onnx::proto::{DataType, StringEntry, Tensor as Stored};
use crate::classifier::onnx::write::*;
use crate::error::Result;

/// A linear classifier of 3×2×2 pictures.
fn linear(batch: i64) -> ModelWriter {
    ModelWriter::new(17, &[batch, 3, 2, 2])
        .node("Flatten", &["x"], &["f"], &[])
        .weights("w", &[12, 4])
        .node("Gemm", &["f", "w"], &["y"], &[])
}

fn scalar(value: i64) -> Stored {
    Stored {
        data_type: DataType::Int64 as i32,
        int64_data: vec![value],
        ..Stored::default()
    }
}

/// What TorchScript writes for `x.view(x.size(0), -1)`.
#[test]
fn view_by_computed_shape() {
    let model = ModelWriter::new(17, &[FREE, 3, 2, 2])
        .node("Constant", &[], &["zero"], &[tensor("value", scalar(0))])
        .node("Shape", &["x"], &["shape"], &[])
        .node("Gather", &["shape", "zero"], &["n"], &[int("axis", 0)])
        .ints("at", &[0])
        .node("Unsqueeze", &["n", "at"], &["n1"], &[])
        .ints("rest", &[-1])
        .node("Concat", &["n1", "rest"], &["to"], &[int("axis", 0)])
        .node("Reshape", &["x", "to"], &["f"], &[])
        .weights("w", &[12, 4])
        .node("MatMul", &["f", "w"], &["y"], &[]);
    check(&model, "view");
    let graph = model.import().unwrap();
    assert_eq!(graph.nodes.len(), 2);
    assert_eq!(graph.value(graph.nodes[0].output).dims, [1, 12]);
}

/// What TorchScript writes for `F.pad(x, (0, 1, 0, 1))`.
#[test]
fn padding_by_computed_pads() {
    let model = ModelWriter::new(17, &[FREE, 3, 4, 4])
        .ints("given", &[0, 1, 0, 1])
        .ints("missing", &[4])
        .node(
            "ConstantOfShape",
            &["missing"],
            &["zeros"],
            &[tensor("value", scalar(0))],
        )
        .node("Concat", &["given", "zeros"], &["all"], &[int("axis", 0)])
        .ints("pairs", &[-1, 2])
        .node("Reshape", &["all", "pairs"], &["p"], &[])
        .ints("from", &[-1])
        .ints("to", &[i64::MIN + 1])
        .ints("axes", &[0])
        .ints("by", &[-1])
        .node("Slice", &["p", "from", "to", "axes", "by"], &["r"], &[])
        .node("Transpose", &["r"], &["t"], &[ints("perm", &[1, 0])])
        .ints("flat", &[-1])
        .node("Reshape", &["t", "flat"], &["pads64"], &[])
        .node("Cast", &["pads64"], &["pads"], &[int("to", 7)])
        .node(
            "Pad",
            &["x", "pads"],
            &["padded"],
            &[string("mode", "constant")],
        )
        .weights("w", &[2, 3, 3, 3])
        .node(
            "Conv",
            &["padded", "w"],
            &["c"],
            &[ints("strides", &[2, 2])],
        )
        .node("Flatten", &["c"], &["y"], &[]);
    check(&model, "pad");
    let graph = model.load().unwrap();
    let Op::Conv(conv) = &graph.nodes[0].op else {
        panic!("{:?}", graph.nodes);
    };
    let pads = conv.window.pads;
    assert_eq!((pads.top, pads.left, pads.bottom, pads.right), (0, 0, 1, 1));
}

/// What exporters write for `token.expand(n, -1, -1)` and position indices.
#[test]
fn expansion_by_computed_shape() {
    let model = ModelWriter::new(17, &[FREE, 3, 2, 2])
        .node("Shape", &["x"], &["n"], &[int("start", 0), int("end", 1)])
        .ints("rank", &[3])
        .node(
            "ConstantOfShape",
            &["rank"],
            &["ones"],
            &[tensor("value", scalar(1))],
        )
        .ints("minus", &[-1])
        .node(
            "Concat",
            &["n", "minus", "minus"],
            &["w1"],
            &[int("axis", 0)],
        )
        .node("Equal", &["w1", "minus"], &["is"], &[])
        .node("Where", &["is", "ones", "w1"], &["shape"], &[])
        .weights("token", &[1, 1, 4])
        .node("Expand", &["token", "shape"], &["tokens"], &[])
        .ints("rows", &[1, 3, 4])
        .node("Reshape", &["x", "rows"], &["r"], &[])
        .node("Concat", &["tokens", "r"], &["all"], &[int("axis", 1)])
        .node("Constant", &[], &["start"], &[int("value_int", 0)])
        .node("Constant", &[], &["two"], &[int("value_int", 2)])
        .node("Constant", &[], &["end"], &[tensor("value", scalar(4))])
        .node("Range", &["start", "end", "two"], &["index"], &[])
        .node("Gather", &["all", "index"], &["t"], &[int("axis", 1)])
        .node("Flatten", &["t"], &["y"], &[]);
    let graph = model.load().unwrap();
    let x = picture(12);
    let token = model.clone().graph().initializer.clone();
    let token = token.iter().find(|t| t.name == "token").unwrap();
    let token: Vec<f64> = (token.raw_data.chunks(4))
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()).into())
        .collect();
    let expected = [&token[..], &x[4..8]].concat();
    assert_close(&logits(&graph), &expected, 1e-9, "expand");
}

#[test]
fn integer_arithmetic() {
    // The result is how many of the 90 elements a slice takes from the end.
    let arithmetic = |op: &str, a: i64, b: i64| -> Result<usize> {
        let model = ModelWriter::new(17, &[FREE, 3, 6, 5])
            .ints("a", &[a])
            .ints("b", &[b])
            .node(op, &["a", "b"], &["c"], &[])
            .node("Cast", &["c"], &["bits"], &[int("to", 7)])
            .node("Neg", &["bits"], &["from"], &[])
            .ints("end", &[i64::MAX])
            .node("Flatten", &["x"], &["f"], &[])
            .ints("axis", &[1])
            .node("Slice", &["f", "from", "end", "axis"], &["y"], &[]);
        let graph = model.load()?;
        // One element is one logit, of which two are made.
        Ok(graph.classes() - usize::from(graph.source.binary))
    };
    for (op, a, b, expected) in [
        ("Add", 7, 5, 12),
        ("Sub", 7, 5, 2),
        ("Mul", 7, 5, 35),
        ("Div", 17, 5, 3),
        ("Mod", -3, 5, 2),
        ("Min", 7, 5, 5),
        ("Max", 7, 5, 7),
        ("Pow", 3, 3, 27),
        ("Less", 3, 4, 1),
        ("LessOrEqual", 4, 4, 1),
        ("Greater", 4, 3, 1),
        ("GreaterOrEqual", 4, 4, 1),
    ] {
        assert_eq!(arithmetic(op, a, b).unwrap(), expected, "{op}");
    }
    for (op, a, b) in [
        ("Div", 1, 0),
        ("Mod", 1, 0),
        ("Mul", i64::MAX, 2),
        ("Div", i64::MIN, -1),
    ] {
        let error = arithmetic(op, a, b).unwrap_err().to_string();
        assert!(error.contains("overflows or divides by zero"), "{error}");
    }
}

#[test]
fn rounding_and_logic() {
    // floor(ceil(2.2)·1.9) = 5 of the 12 elements, unless the logic below is wrong.
    let model = ModelWriter::new(17, &[FREE, 3, 2, 2])
        .floats("a", &[1], &[2.2])
        .floats("b", &[1], &[1.9])
        .node("Ceil", &["a"], &["c"], &[])
        .node("Mul", &["c", "b"], &["d"], &[])
        .node("Floor", &["d"], &["e"], &[])
        .node("Round", &["e"], &["e2"], &[])
        .node("Cast", &["e2"], &["five"], &[int("to", 7)])
        .ints("one", &[1])
        .node("Equal", &["five", "one"], &["no"], &[])
        .node("Not", &["no"], &["yes"], &[])
        .node("Or", &["no", "yes"], &["or"], &[])
        .node("And", &["or", "yes"], &["and"], &[])
        .node("Where", &["and", "five", "one"], &["to"], &[])
        .node("Size", &["x"], &["twelve"], &[])
        .node("Sub", &["twelve", "to"], &["from"], &[])
        .ints("end", &[12])
        .node("Flatten", &["x"], &["f"], &[])
        .node("Slice", &["f", "from", "end", "one"], &["y"], &[]);
    assert_eq!(model.load().unwrap().classes(), 5);
}

#[test]
fn a_batch_fixed_at_1_is_free() {
    let free = linear(FREE).load().unwrap();
    let fixed = linear(1).load().unwrap();
    assert_eq!(logits(&free), logits(&fixed));
    let error = linear(16).load().unwrap_err().to_string();
    assert!(error.contains("batch fixed at 16"), "{error}");
}

#[test]
fn free_sizes_need_an_option() {
    let load = |dims: &[i64], image_size| -> Result<Graph> {
        let model = ModelWriter::new(17, dims)
            .node("GlobalAveragePool", &["x"], &["p"], &[])
            .node("Flatten", &["p"], &["y"], &[]);
        let (_folder, path) = saved(&model.bytes());
        let options = LoadOptions {
            image_size,
            ..LoadOptions::default()
        };
        Graph::load(&path, &options)
    };
    let error = load(&[FREE, 3, FREE, FREE], None).unwrap_err().to_string();
    assert!(error.contains("height is free"), "{error}");
    let graph = load(&[FREE, 3, FREE, FREE], Some((5, 7))).unwrap();
    assert_eq!(graph.input_shape().to_string(), "3×5×7");
    let error = load(&[FREE, 3, 8, 8], Some((8, 9)))
        .unwrap_err()
        .to_string();
    assert!(error.contains("width is fixed at 8, not 9"), "{error}");
    load(&[FREE, 1, 8, 8], Some((8, 8))).unwrap();
    for (dims, reason) in [
        (&[FREE, FREE, 8, 8][..], "channels are free; say where"),
        (&[FREE, 4, 8, 8], "1 or 3 channels"),
        (&[FREE, 12], "images×channels×height×width"),
        (&[FREE, 3, 1 << 40, 8], "not a size"),
        (&[FREE, 3, 1 << 20, 1 << 20], "too much memory"),
    ] {
        let error = load(dims, None).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let error = load(&[FREE, 3, FREE, FREE], Some((usize::MAX, 8)));
    assert!(error.is_err());
    assert!(load(&[FREE, 3, FREE, FREE], Some((0, 8))).is_err());
}

#[test]
fn takes_the_output_that_is_a_row() {
    let mut model = linear(FREE)
        .node("Relu", &["x"], &["features"], &[])
        .node("ReduceMean", &["x"], &["pooled"], &[ints("axes", &[2, 3])])
        .node("ArgMax", &["y"], &["best"], &[int("axis", 1)])
        .node("Softmax", &["y"], &["probabilities"], &[]);
    let declared = |name: &str| info(name, &[]);
    let mut outputs = vec![info("features", &[FREE, 3, 2, 2])];
    let mut best = info("best", &[FREE, 1]);
    let kind = best.kind.as_mut().unwrap().tensor.as_mut().unwrap();
    kind.element = DataType::Int64 as i32;
    outputs.push(best);
    outputs.push(info("y", &[FREE, 4]));
    outputs.push(info("probabilities", &[FREE, 4]));
    model.graph().output = outputs;
    let graph = model.load().unwrap();
    assert_eq!(graph.classes(), 4);
    assert!(!graph.output_is_softmax() && graph.warnings.is_empty());

    // Rank 4 with one pixel is a row too.
    model.graph().output = vec![info("features", &[]), declared("pooled")];
    let kind = model.graph().output[0].kind.as_mut().unwrap();
    kind.tensor.as_mut().unwrap().shape = None;
    let graph = model.load().unwrap();
    assert_eq!(graph.value(graph.output).dims, [1, 3]);
    let x = picture(12);
    let expected = [0, 1, 2].map(|c| x[4 * c..][..4].iter().sum::<f64>() / 4.0);
    assert_close(&logits(&graph), &expected, 1e-6, "pooled");

    model.graph().output = vec![info("features", &[FREE, 3, 2, 2])];
    let error = model.load().unwrap_err().to_string();
    assert!(error.contains("\"features\" [1, 3, 2, 2]"), "{error}");
}

#[test]
fn warns_of_probabilities() {
    let mut model = linear(FREE).node("Softmax", &["y"], &["p"], &[]);
    model.graph().output = vec![info("p", &[FREE, 4])];
    let graph = model.load().unwrap();
    assert!(graph.output_is_softmax());
    assert_eq!(graph.warnings.len(), 1);
    let sum: f64 = logits(&graph).iter().sum();
    assert!((sum - 1.0).abs() < 1e-12);
}

#[test]
fn weights_of_every_type() {
    let values = [0.5f32, -1.25, 3.0, 0.0625, 2.0, -8.0];
    let bits = |f: &dyn Fn(f32) -> i32| values.iter().map(|&x| f(x)).collect::<Vec<i32>>();
    let half = |x: f32| i32::from(half::f16::from_f32(x).to_bits());
    let brain = |x: f32| i32::from(half::bf16::from_f32(x).to_bits());
    let raw16 = |f: &dyn Fn(f32) -> i32| -> prost::bytes::Bytes {
        let bytes: Vec<u8> = (values.iter())
            .flat_map(|&x| (f(x) as u16).to_le_bytes())
            .collect();
        bytes.into()
    };
    let typed = |kind: DataType| Stored {
        data_type: kind as i32,
        ..Stored::default()
    };
    let raw64: Vec<u8> = (values.iter())
        .flat_map(|&x| f64::from(x).to_le_bytes())
        .collect();
    let tensors = [
        Stored {
            float_data: values.to_vec(),
            ..typed(DataType::Float)
        },
        floats("", &[], &values),
        Stored {
            double_data: values.iter().map(|&x| x.into()).collect(),
            ..typed(DataType::Double)
        },
        Stored {
            raw_data: raw64.into(),
            ..typed(DataType::Double)
        },
        Stored {
            int32_data: bits(&half),
            ..typed(DataType::Float16)
        },
        Stored {
            raw_data: raw16(&half),
            ..typed(DataType::Float16)
        },
        Stored {
            int32_data: bits(&brain),
            ..typed(DataType::Bfloat16)
        },
        Stored {
            raw_data: raw16(&brain),
            ..typed(DataType::Bfloat16)
        },
    ];
    let x = picture(3);
    let expected: Vec<f64> = (0..2)
        .map(|o| (0..3).map(|i| x[i] * f64::from(values[2 * i + o])).sum())
        .collect();
    for tensor in tensors {
        let mut model = ModelWriter::new(17, &[FREE, 3, 1, 1])
            .node("Flatten", &["x"], &["f"], &[])
            .node("MatMul", &["f", "w"], &["y"], &[]);
        model.graph().initializer.push(Stored {
            name: "w".into(),
            dims: vec![3, 2],
            ..tensor
        });
        assert_close(&logits(&model.load().unwrap()), &expected, 1e-7, "types");
    }
}

#[test]
fn half_precision_models_run_in_float32() {
    let mut model = ModelWriter::new(17, &[FREE, 3, 1, 1])
        .node("Cast", &["x"], &["wide"], &[int("to", 1)])
        .node("Cast", &["wide"], &["narrow"], &[int("to", 10)])
        .node("Flatten", &["narrow"], &["y"], &[]);
    let input = model.graph().input[0].kind.as_mut().unwrap();
    input.tensor.as_mut().unwrap().element = DataType::Float16 as i32;
    let graph = model.load().unwrap();
    assert_eq!(logits(&graph), picture(3));

    let input = model.graph().input[0].kind.as_mut().unwrap();
    input.tensor.as_mut().unwrap().element = DataType::Int32 as i32;
    let error = model.load().unwrap_err().to_string();
    assert!(
        error.contains("of type Int32; images are floats, or uint8"),
        "{error}"
    );
}

/// The linear classifier with its weights in another file.
fn external(location: &str, extra: &[(&str, &str)]) -> Vec<u8> {
    let mut model = linear(FREE);
    let tensor = &mut model.graph().initializer[0];
    tensor.raw_data = Default::default();
    tensor.data_location = 1;
    let entries = [&[("location", location)], extra].concat();
    tensor.external_data = (entries.iter())
        .map(|(key, value)| StringEntry {
            key: key.to_string(),
            value: value.to_string(),
        })
        .collect();
    model.bytes()
}

#[test]
fn external_data() {
    let weights = linear(FREE).graph().initializer[0].raw_data.clone();
    let expected = logits(&linear(FREE).load().unwrap());
    let load = |bytes: &[u8], prepare: &dyn Fn(&Path)| {
        let (folder, path) = saved(bytes);
        prepare(folder.path());
        Graph::load(&path, &LoadOptions::default())
    };
    let write = |name: &'static str, before: usize| {
        let weights = weights.clone();
        move |folder: &Path| {
            let bytes = [&vec![7; before], &weights[..]].concat();
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    };
    let graph = load(&external("w.bin", &[]), &write("w.bin", 0)).unwrap();
    assert_eq!(logits(&graph), expected);
    let parts = [("offset", "64"), ("length", "192")];
    let graph = load(&external("./d/w.bin", &parts), &write("d/w.bin", 64)).unwrap();
    assert_eq!(logits(&graph), expected);

    let nothing = |_: &Path| {};
    for (location, extra, reason) in [
        ("w.bin", &[][..], "w.bin, which cannot be read"),
        ("../w.bin", &[], "../w.bin, outside the model's folder"),
        ("/etc/hostname", &[], "outside the model's folder"),
        ("d/../../w.bin", &[], "outside the model's folder"),
        ("", &[], "is not a file"),
        ("w.bin", &[("length", "100")], "100 bytes"),
        ("w.bin", &[("offset", "x")], "offset \"x\""),
    ] {
        let error = load(&external(location, extra), &nothing).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(reason), "{error}");
        assert!(
            error.contains("model.onnx") && !error.contains('\n'),
            "{error}"
        );
    }
    for offset in ["1", "18446744073709551615"] {
        let bytes = external("w.bin", &[("offset", offset)]);
        let error = load(&bytes, &write("w.bin", 0)).unwrap_err().to_string();
        assert!(error.contains("is it truncated"), "{error}");
    }
    // The folder's own links may lead anywhere; what is got in place of a file is named.
    #[cfg(unix)]
    {
        let (elsewhere, place) = saved(&weights);
        let link = |folder: &Path| {
            std::os::unix::fs::symlink(&place, folder.join("w.bin")).unwrap();
        };
        let graph = load(&external("w.bin", &[]), &link).unwrap();
        assert_eq!(logits(&graph), expected);
        drop(elsewhere);
    }
    let pointer = |folder: &Path| {
        let text = "version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 192\n";
        std::fs::write(folder.join("w.bin"), text).unwrap();
    };
    let error = load(&external("w.bin", &[]), &pointer).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("w.bin, which is a Git LFS pointer"),
        "{error}"
    );
}
