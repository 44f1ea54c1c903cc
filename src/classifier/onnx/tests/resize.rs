//! Resize, against ONNX's reference evaluator along one axis and tract along two.

use super::*;
use crate::classifier::onnx::proto::Attribute;
use crate::classifier::onnx::write::*;

/// Inputs that nearest neighbors copy of an axis of 6, as `onnx.reference` has them; with corners aligned
/// by a scale, as ONNX Runtime does.
const NEAREST: &str = "\
nearest half_pixel round_prefer_floor size 8: 0 1 1 2 3 4 4 5
nearest half_pixel round_prefer_floor scale 0.75: 0 1 3 4
nearest half_pixel round_prefer_ceil size 8: 0 1 1 2 3 4 4 5
nearest half_pixel round_prefer_ceil scale 0.75: 0 2 3 4
nearest half_pixel floor size 8: 0 0 1 2 2 3 4 5
nearest half_pixel floor scale 0.75: 0 1 2 4
nearest half_pixel ceil size 8: 0 1 2 3 3 4 5 5
nearest half_pixel ceil scale 0.75: 1 2 3 5
nearest pytorch_half_pixel round_prefer_floor size 8: 0 1 1 2 3 4 4 5
nearest pytorch_half_pixel round_prefer_floor scale 0.75: 0 1 3 4
nearest pytorch_half_pixel round_prefer_ceil size 8: 0 1 1 2 3 4 4 5
nearest pytorch_half_pixel round_prefer_ceil scale 0.75: 0 2 3 4
nearest pytorch_half_pixel floor size 8: 0 0 1 2 2 3 4 5
nearest pytorch_half_pixel floor scale 0.75: 0 1 2 4
nearest pytorch_half_pixel ceil size 8: 0 1 2 3 3 4 5 5
nearest pytorch_half_pixel ceil scale 0.75: 1 2 3 5
nearest align_corners round_prefer_floor size 8: 0 1 1 2 3 4 4 5
nearest align_corners round_prefer_floor scale 0.75: 0 2 3 5
nearest align_corners round_prefer_ceil size 8: 0 1 1 2 3 4 4 5
nearest align_corners round_prefer_ceil scale 0.75: 0 2 3 5
nearest align_corners floor size 8: 0 0 1 2 2 3 4 5
nearest align_corners floor scale 0.75: 0 1 3 5
nearest align_corners ceil size 8: 0 1 2 3 3 4 5 5
nearest align_corners ceil scale 0.75: 0 2 4 5
nearest asymmetric round_prefer_floor size 8: 0 1 1 2 3 4 4 5
nearest asymmetric round_prefer_floor scale 0.75: 0 1 3 4
nearest asymmetric round_prefer_ceil size 8: 0 1 2 2 3 4 5 5
nearest asymmetric round_prefer_ceil scale 0.75: 0 1 3 4
nearest asymmetric floor size 8: 0 0 1 2 3 3 4 5
nearest asymmetric floor scale 0.75: 0 1 2 4
nearest asymmetric ceil size 8: 0 1 2 3 3 4 5 5
nearest asymmetric ceil scale 0.75: 0 2 3 4
nearest half_pixel_symmetric round_prefer_floor size 8: 0 1 1 2 3 4 4 5
nearest half_pixel_symmetric round_prefer_floor scale 0.75: 0 2 3 4
nearest half_pixel_symmetric round_prefer_ceil size 8: 0 1 1 2 3 4 4 5
nearest half_pixel_symmetric round_prefer_ceil scale 0.75: 1 2 3 5
nearest half_pixel_symmetric floor size 8: 0 0 1 2 2 3 4 5
nearest half_pixel_symmetric floor scale 0.75: 0 1 3 4
nearest half_pixel_symmetric ceil size 8: 0 1 2 3 3 4 5 5
nearest half_pixel_symmetric ceil scale 0.75: 1 2 4 5
";

/// What `onnx.reference` makes of [`picture`]'s first 6 elements along one axis; with corners aligned by a
/// scale, what ONNX Runtime does.
const INTERPOLATED: &str = "\
linear half_pixel scale 0.6: 0.30723 0.0572183 0.43523
linear half_pixel scale 1.7: 0 0.352411 0.894582 0.438603 0.130895 0.425604 0.498535 0.390012 0.413607 0.45348
cubic half_pixel size 4: 0.239212 0.232638 0.566461 0.428926
cubic half_pixel scale 1.7: -0.0897504 0.398151 0.918737 0.455754 0.0529929 0.423474 0.553494 0.385237 0.396311 0.457867
linear pytorch_half_pixel scale 0.6: 0.30723 0.0572183 0.43523
linear pytorch_half_pixel scale 1.7: 0 0.352411 0.894582 0.438603 0.130895 0.425604 0.498535 0.390012 0.413607 0.45348
cubic pytorch_half_pixel size 4: 0.239212 0.232638 0.566461 0.428926
cubic pytorch_half_pixel scale 1.7: -0.0897504 0.398151 0.918737 0.455754 0.0529929 0.423474 0.553494 0.385237 0.396311 0.457867
linear align_corners scale 0.6: 0 0.30772 0.45348
linear align_corners scale 1.7: 0 0.51205 0.825638 0.345376 0.168553 0.446888 0.496726 0.394233 0.409176 0.45348
cubic align_corners size 4: 0 0.324905 0.55138 0.45348
cubic align_corners scale 1.7: 0 0.607309 0.898804 0.324905 0.0746813 0.452613 0.55138 0.389562 0.389649 0.45348
linear asymmetric scale 0.6: 0 0.345376 0.496726
linear asymmetric scale 1.7: 0 0.542171 0.769136 0.260623 0.234043 0.528752 0.460552 0.383116 0.430025 0.45348
cubic asymmetric size 4: 0 0.528894 0.558223 0.396311
cubic asymmetric scale 1.7: 0 0.644397 0.862555 0.217601 0.140975 0.539968 0.496041 0.368859 0.42328 0.462245
linear half_pixel_symmetric scale 0.6: 0.768075 0.30772 0.387025
linear half_pixel_symmetric scale 1.7: 0 0.406628 0.896265 0.387752 0.160366 0.455075 0.487683 0.37916 0.418298 0.45348
cubic half_pixel_symmetric size 4: 0.239212 0.232638 0.566461 0.428926
cubic half_pixel_symmetric scale 1.7: -0.0739562 0.470465 0.920909 0.383353 0.0687993 0.463262 0.539654 0.376579 0.403826 0.459879
linear antialias size 4: 0.30723 0.401043 0.441059 0.426898
linear antialias size 9: 0 0.460845 0.777612 0.201297 0.30772 0.527474 0.404482 0.413607 0.45348
linear antialias scale 0.6: 0.345634 0.360657 0.452885
linear antialias size 1: 0.356727
linear exclude_outside size 4: 0.230423 0.273336 0.5121 0.433543
linear exclude_outside size 9: 0 0.460845 0.777612 0.201297 0.30772 0.527474 0.404482 0.413607 0.45348
linear exclude_outside scale 0.6: 0.30723 0.0572183 0.43523
linear exclude_outside size 1: 0.30772
linear antialias exclude_outside size 4: 0.345634 0.401043 0.441059 0.423575
linear antialias exclude_outside size 9: 0 0.460845 0.777612 0.201297 0.30772 0.527474 0.404482 0.413607 0.45348
linear antialias exclude_outside scale 0.6: 0.39501 0.360657 0.452885
linear antialias exclude_outside size 1: 0.400056
cubic antialias size 4: 0.355064 0.43733 0.416019 0.420438
cubic antialias size 9: -0.0800076 0.541889 0.868932 0.153798 0.243972 0.57385 0.401987 0.396311 0.460402
cubic antialias scale 0.6: 0.375557 0.411439 0.434406
cubic antialias size 1: 0.376663
cubic exclude_outside size 4: 0.21639 0.232638 0.566461 0.431269
cubic exclude_outside size 9: -0.0934146 0.495442 0.868932 0.153798 0.243972 0.57385 0.401987 0.401211 0.461562
cubic exclude_outside scale 0.6: 0.304369 0.0572184 0.450787
cubic exclude_outside size 1: 0.243972
cubic antialias exclude_outside size 4: 0.371698 0.432327 0.416447 0.41889
cubic antialias exclude_outside size 9: -0.0934143 0.495442 0.868932 0.153798 0.243972 0.57385 0.401987 0.401211 0.461562
cubic antialias exclude_outside scale 0.6: 0.397592 0.405643 0.435571
cubic antialias exclude_outside size 1: 0.40217
";

/// A resized axis of 6 as the words of a case describe it.
fn case(words: &[&str]) -> ModelWriter {
    let (options, [kind, size]) = words.split_at(words.len() - 2) else {
        panic!("{words:?}");
    };
    let mut opset = 13;
    let mut attributes = Vec::new();
    for &word in options {
        attributes.push(match word {
            "nearest" | "linear" | "cubic" => string("mode", word),
            "antialias" | "exclude_outside" => {
                opset = 18;
                int(word, 1)
            }
            "round_prefer_floor" | "round_prefer_ceil" | "floor" | "ceil" => {
                string("nearest_mode", word)
            }
            word => string("coordinate_transformation_mode", word),
        });
        if word == "half_pixel_symmetric" {
            opset = 19;
        }
    }
    let model = ModelWriter::new(opset, &[FREE, 1, 1, 6]);
    let model = match *kind {
        "scale" => model
            .floats("to", &[4], &[1.0, 1.0, 1.0, size.parse().unwrap()])
            .node("Resize", &["x", "", "to"], &["t"], &attributes),
        _ => model.ints("to", &[1, 1, 1, size.parse().unwrap()]).node(
            "Resize",
            &["x", "", "", "to"],
            &["t"],
            &attributes,
        ),
    };
    model.node("Flatten", &["t"], &["y"], &[])
}

#[test]
fn cases_match_the_reference_evaluator() {
    let x = picture(6);
    for line in NEAREST.lines().chain(INTERPOLATED.lines()) {
        let (words, numbers) = line.split_once(": ").unwrap();
        let words: Vec<&str> = words.split(' ').collect();
        let numbers = numbers.split(' ');
        let expected: Vec<f64> = match words[0] {
            "nearest" => numbers.map(|i| x[i.parse::<usize>().unwrap()]).collect(),
            _ => numbers.map(|number| number.parse().unwrap()).collect(),
        };
        let logits = logits(&case(&words).load().unwrap());
        // One logit stands for the second of two classes.
        let logits = if expected.len() == 1 {
            &logits[1..]
        } else {
            &logits
        };
        assert_close(logits, &expected, 2e-6, line);
    }
}

/// A picture resized, then flattened; the target is the input that is not empty.
fn resized(opset: i64, inputs: &[&str], attributes: &[Attribute]) -> ModelWriter {
    ModelWriter::new(opset, &[FREE, 3, 4, 5])
        .floats("none", &[0], &[])
        .floats("scales", &[4], &[1.0, 1.0, 2.0, 1.5])
        .floats("two", &[2], &[2.0, 1.5])
        .ints("sizes", &[1, 3, 7, 3])
        .ints("side", &[6, 9])
        .node("Resize", &[&["x"], inputs].concat(), &["t"], attributes)
        .node("Flatten", &["t"], &["y"], &[])
}

#[test]
fn pictures_match_tract() {
    for mode in ["nearest", "linear", "cubic"] {
        for coordinates in ["half_pixel", "align_corners", "asymmetric"] {
            let attributes = [
                string("mode", mode),
                string("coordinate_transformation_mode", coordinates),
            ];
            for (opset, inputs) in [
                (11, &["none", "scales"][..]),
                (11, &["none", "none", "sizes"]),
                (13, &["", "scales"]),
                (13, &["", "", "sizes"]),
                (18, &["", "scales"]),
                (19, &["", "", "sizes"]),
            ] {
                // tract aligns by the scale's own length, not by the output's as ONNX Runtime does.
                if coordinates == "align_corners" && inputs.last() == Some(&"scales") {
                    continue;
                }
                let what = format!("{mode} {coordinates} {opset} {inputs:?}");
                let model = resized(opset, inputs, &attributes);
                check(&model, &what);
                check_on_the_cpu(&model, &what);
            }
        }
    }
    let axes = ints("axes", &[-1, 2]);
    let linear = string("mode", "linear");
    check(
        &resized(18, &["", "two"], &[axes.clone(), linear.clone()]),
        "scales of axes",
    );
    for policy in ["stretch", "not_larger", "not_smaller"] {
        let policy = string("keep_aspect_ratio_policy", policy);
        let model = resized(
            18,
            &["", "", "side"],
            &[axes.clone(), linear.clone(), policy],
        );
        check(&model, "sizes of axes");
    }
}

/// Rounding a third to float32 does not move a copy to another neighbor.
#[test]
fn positions_are_exact() {
    for (mode, input, scale) in [("floor", 9, 1.0 / 3.0), ("ceil", 14, 0.7)] {
        let model = ModelWriter::new(13, &[FREE, 1, 1, input])
            .floats("scales", &[4], &[1.0, 1.0, 1.0, scale])
            .node(
                "Resize",
                &["x", "", "scales"],
                &["t"],
                &[
                    string("coordinate_transformation_mode", "asymmetric"),
                    string("nearest_mode", mode),
                ],
            )
            .node("Flatten", &["t"], &["y"], &[]);
        let x = picture(input as usize);
        let expected: Vec<f64> = match mode {
            "floor" => [0, 3, 6].map(|i| x[i]).into(),
            _ => [0, 2, 3, 5, 6, 8, 9, 10, 12].map(|i| x[i]).into(),
        };
        assert_close(&logits(&model.load().unwrap()), &expected, 1e-9, mode);
    }
}

/// Opset 11 alone has it, for nearest neighbors: output `i` copies input `⌊(i + 1/2)/scale⌋`.
#[test]
fn tensorflow_s_half_pixels() {
    let attributes = [
        string("coordinate_transformation_mode", "tf_half_pixel_for_nn"),
        string("nearest_mode", "floor"),
    ];
    let model = ModelWriter::new(11, &[FREE, 1, 1, 6])
        .floats("none", &[0], &[])
        .ints("to", &[1, 1, 1, 3])
        .node("Resize", &["x", "none", "none", "to"], &["t"], &attributes)
        .node("Flatten", &["t"], &["y"], &[]);
    let x = picture(6);
    assert_eq!(logits(&model.load().unwrap()), [x[1], x[3], x[5]]);
}

#[test]
fn what_cannot_be_resized() {
    for (inputs, attributes, reason) in [
        (&[][..], vec![], "scales or sizes"),
        (&["", "scales", "sizes"], vec![], "scales or sizes"),
        (&["none", "none", ""], vec![], "scales or sizes"),
        (&["", "two"], vec![], "do not fit"),
        (&["", "", "side"], vec![], "do not fit"),
        (&["", "x"], vec![], "depends on the image"),
        (&["", "sizes"], vec![], "not float"),
        (&["", "", "scales"], vec![], "not integer"),
        (&["", "zero"], vec![], "scale 0"),
        (&["", "negative"], vec![], "scale -1"),
        (&["", "nan"], vec![], "scale NaN"),
        (&["", "huge"], vec![], "scale 1"),
        (&["", "tiny"], vec![], "scale 0.1"),
        (&["", "large"], vec![], "too much memory"),
        (&["", "", "none_left"], vec![], "its output is empty"),
        (&["", "", "minus"], vec![], "not a size"),
        (&["", "", "vast"], vec![], "too much memory"),
        (
            &["", "", "wide"],
            vec![string("mode", "linear")],
            "out of proportion",
        ),
        (&["", "two"], vec![ints("axes", &[2, -2])], "twice"),
        (&["", "two"], vec![ints("axes", &[2, 4])], "beyond rank"),
        (&["", "none"], vec![ints("axes", &[])], "scales or sizes"),
        (&["", "scales"], vec![string("mode", "area")], "mode area"),
        (
            &["", "scales"],
            vec![string("nearest_mode", "up")],
            "nearest_mode up",
        ),
        (
            &["", "scales"],
            vec![string(
                "coordinate_transformation_mode",
                "tf_crop_and_resize",
            )],
            "tf_crop_and_resize is not supported",
        ),
        (
            &["", "", "side"],
            vec![
                ints("axes", &[2, 3]),
                string("keep_aspect_ratio_policy", "crop"),
            ],
            "policy crop",
        ),
        (&["", "scales"], vec![int("antialias", 1)], "antialias"),
        (
            &["", "scales"],
            vec![float("cubic_coeff_a", f32::NAN)],
            "cubic_coeff_a NaN",
        ),
    ] {
        let model = resized(18, inputs, &attributes)
            .floats("zero", &[4], &[1.0, 1.0, 0.0, 1.0])
            .floats("negative", &[4], &[1.0, 1.0, 1.0, -1.0])
            .floats("nan", &[4], &[1.0, f32::NAN, 1.0, 1.0])
            .floats("huge", &[4], &[1.0, 1.0, 1.0, 1e30])
            .floats("tiny", &[4], &[1.0, 1.0, 0.1, 1.0])
            .floats("large", &[4], &[1.0, 1.0, 1e4, 1e4])
            .ints("none_left", &[1, 3, 0, 5])
            .ints("minus", &[1, 3, -1, 5])
            .ints("vast", &[1, 3, 1 << 20, 1 << 20])
            .ints("wide", &[1, 3, 4, 1 << 22]);
        let error = model.load().unwrap_err().to_string();
        assert!(error.contains(reason), "{inputs:?} {attributes:?}: {error}");
    }
}
