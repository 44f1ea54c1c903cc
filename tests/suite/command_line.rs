//! The whole program through its command line, on a small classifier (`fixtures/models.py`).

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{self, fixture, read_npy_f32, results};

fn backstitch() -> Command {
    Command::cargo_bin("backstitch").unwrap()
}

/// Runs a command line that must succeed; gives its stdout.
fn succeed(arguments: &[&str]) -> String {
    let output = backstitch().args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command line that must fail with `code`; gives its stderr's last line.
fn fail(code: i32, arguments: &[&str]) -> String {
    let output = backstitch().args(arguments).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    stderr.lines().last().unwrap_or_default().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A smooth picture whose strongest channel is `label`, with a checkerboard of `noise` levels on it.
fn smooth(label: usize, phase: f64, noise: i32) -> image::RgbImage {
    image::RgbImage::from_fn(32, 32, |x, y| {
        let wave = 20.0 * (0.2 * f64::from(x) + 0.15 * f64::from(y) + phase).sin();
        let sign = if (x + y).is_multiple_of(2) { 1 } else { -1 };
        image::Rgb(std::array::from_fn(|channel| {
            let base = if channel == label { 170.0 } else { 90.0 };
            (base + wave) as u8 + (noise * sign).max(0) as u8 - (-noise * sign).max(0) as u8
        }))
    })
}

/// A folder of class folders with clean pictures, `a` to `c`, and its class list.
fn photographs(folder: &Path) -> (PathBuf, PathBuf) {
    let root = folder.join("photos");
    for (label, class) in ["a", "b", "c"].into_iter().enumerate() {
        std::fs::create_dir_all(root.join(class)).unwrap();
        for i in 0..2 {
            let path = root.join(class).join(format!("{i}.png"));
            smooth(label, i as f64 + label as f64, 0)
                .save(path)
                .unwrap();
        }
    }
    let classes = folder.join("classes.txt");
    std::fs::write(&classes, "a\nb\nc\nd\n").unwrap();
    (root, classes)
}

/// Short optimizations: enough for 32×32 pictures.
const QUICK: [&str; 6] = [
    "--iterations",
    "200",
    "--restarts",
    "2",
    "--preset",
    "cifar",
];

#[test]
fn attacked_pictures_come_back_with_their_labels() {
    let folder = TempDir::new().unwrap();
    let (photos, classes) = photographs(folder.path());
    let (attacked, purified) = (
        folder.path().join("attacked"),
        folder.path().join("purified"),
    );
    let model = fixture("toy.onnx");
    let common = ["--classes", text(&classes), "--classifier", text(&model)];

    let said = succeed(
        &[
            &[
                "attack",
                text(&photos),
                "--eps",
                "8/255",
                "-o",
                text(&attacked),
            ],
            &common[..],
        ]
        .concat(),
    );
    assert!(said.contains("6 of 6 attacked pictures fool"), "{said}");
    for (image, record) in results(&attacked) {
        assert_eq!(record["success"], true, "{image}");
        assert!(
            record["linf"].as_f64().unwrap() <= 8.0 / 255.0 + 1e-6,
            "{image}"
        );
        assert!(attacked.join("images").join(&image).exists(), "{image}");
    }

    let input = attacked.join("images");
    let mut arguments = vec!["purify", text(&input), "-o", text(&purified)];
    arguments.extend(common);
    arguments.extend(QUICK);
    let said = succeed(&arguments);
    assert!(
        said.contains("0 were classified rightly before, 6 after"),
        "{said}"
    );
    for (image, record) in results(&purified) {
        assert_eq!(record["verdict"], "adversarial", "{image}");
        assert_eq!(record["output_label"], record["label"], "{image}");
        assert_eq!(record["input_label"], 3, "{image}");
        assert_eq!(record["iterations"], 400, "{image}");
        assert!(record["psnr"].as_f64().unwrap() > 20.0, "{image}");
        assert!(record["ssim"].as_f64().unwrap() > 0.3, "{image}");
        let restarts = record["restarts"].as_array().unwrap();
        assert_eq!(restarts.len(), 2);
        for key in ["seed", "crossing", "alpha", "push", "margin"] {
            assert!(restarts[0].get(key).is_some(), "{image}: {key}");
        }
    }
    let run: Value =
        serde_json::from_str(&std::fs::read_to_string(purified.join("run.json")).unwrap()).unwrap();
    assert_eq!(run["labeled"]["right_after"], 6);
    let report = std::fs::read_to_string(purified.join("report.html")).unwrap();
    assert!(report.contains("a/0.png"));

    // The stored file is what was judged.
    let output = purified.join("images");
    let said = succeed(&[
        "classify",
        text(&output),
        "--json",
        "--classifier",
        text(&model),
    ]);
    let after = results(&purified);
    for line in said.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let record = &after[line["image"].as_str().unwrap()];
        assert_eq!(line["top"][0]["label"], record["output_label"]);
        let (a, b) = (&line["top"][0]["confidence"], &record["output_confidence"]);
        assert!((a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-6);
    }
}

#[test]
fn clean_pictures_come_back_bit_for_bit() {
    let folder = TempDir::new().unwrap();
    let (photos, _) = photographs(folder.path());
    let out = folder.path().join("out");
    let model = fixture("toy.onnx");
    let mut arguments = vec![
        "purify",
        text(&photos),
        "-o",
        text(&out),
        "--classifier",
        text(&model),
    ];
    arguments.extend(QUICK);
    succeed(&arguments);
    for (image, record) in results(&out) {
        assert_eq!(record["verdict"], "clean", "{image}");
        assert_eq!(
            record["psnr"],
            Value::Null,
            "{image}: equal pictures have no error"
        );
        let before = image::open(photos.join(&image)).unwrap().to_rgb8();
        assert_eq!(
            image::open(out.join("images").join(&image))
                .unwrap()
                .to_rgb8(),
            before
        );
    }
}

/// Noisy pictures of the three colors, as files of one folder.
fn noisy(folder: &Path) -> PathBuf {
    let root = folder.join("noisy");
    std::fs::create_dir_all(&root).unwrap();
    for label in 0..3 {
        smooth(label, 0.5, 8)
            .save(root.join(format!("{label}.png")))
            .unwrap();
    }
    root
}

/// All that a run found, without its times.
fn fingerprint(out: &Path) -> Vec<(String, String, Vec<u8>)> {
    let of = |(image, mut record): (String, Value)| {
        record.as_object_mut().unwrap().remove("seconds");
        let pixels = std::fs::read(out.join(record["output"].as_str().unwrap())).unwrap();
        (image, record.to_string(), pixels)
    };
    results(out).into_iter().map(of).collect()
}

#[test]
fn results_depend_on_neither_company_nor_threads_nor_capacity() {
    let folder = TempDir::new().unwrap();
    let root = noisy(folder.path());
    let model = fixture("toy.onnx");
    let purify = |name: &str, inputs: &[&str], more: &[&str]| {
        let out = folder.path().join(name);
        let mut arguments = vec!["purify"];
        arguments.extend(inputs);
        arguments.extend([
            "-o",
            text(&out),
            "--classifier",
            text(&model),
            "--save",
            "npy",
        ]);
        arguments.extend(QUICK);
        arguments.extend(more);
        succeed(&arguments);
        fingerprint(&out)
    };
    let together = purify("together", &[text(&root)], &[]);
    assert_eq!(together.len(), 3);
    assert_eq!(purify("again", &[text(&root)], &[]), together);
    assert_eq!(purify("one", &[text(&root)], &["--threads", "1"]), together);
    assert_eq!(
        purify("three", &[text(&root)], &["--threads", "3"]),
        together
    );
    assert_eq!(
        purify("few", &[text(&root)], &["--capacity", "1"]),
        together
    );
    assert_eq!(
        purify("odd", &[text(&root)], &["--capacity", "5"]),
        together
    );
    let alone = purify("alone", &[text(&root.join("1.png"))], &[]);
    assert_eq!(alone[0], together[1]);
    assert_ne!(purify("seed", &[text(&root)], &["--seed", "9"]), together);
}

#[test]
fn a_torn_run_is_resumed_and_another_is_not() {
    let folder = TempDir::new().unwrap();
    let root = noisy(folder.path());
    let model = fixture("toy.onnx");
    let (whole, torn) = (folder.path().join("whole"), folder.path().join("torn"));
    let run = |out: &Path, more: &[&str]| -> Vec<String> {
        let mut arguments = vec![
            "purify",
            text(&root),
            "-o",
            text(out),
            "--classifier",
            text(&model),
        ];
        arguments.extend(QUICK);
        arguments.extend(more);
        arguments.into_iter().map(str::to_owned).collect()
    };
    let strings = |arguments: &[String]| -> Vec<String> { arguments.to_vec() };
    let ok = |arguments: &[String]| {
        succeed(
            &strings(arguments)
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        )
    };
    ok(&run(&whole, &[]));
    ok(&run(&torn, &[]));
    // A crash in the middle of the second line.
    let journal = torn.join("results.jsonl");
    let lines = std::fs::read_to_string(&journal).unwrap();
    let first = lines.lines().next().unwrap().len() + 1;
    std::fs::write(&journal, &lines[..first + 20]).unwrap();

    let refused = |more: &[&str]| {
        let arguments = run(&torn, more);
        fail(1, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let said = refused(&[]);
    assert!(
        said.contains("--resume") && said.contains("--overwrite"),
        "{said}"
    );
    refused(&["--resume", "--seed", "5"]);
    ok(&run(&torn, &["--resume"]));
    assert_eq!(fingerprint(&torn), fingerprint(&whole));
    ok(&run(&torn, &["--overwrite", "--seed", "5"]));
}

#[test]
fn raw_logits_are_written_in_order() {
    let folder = TempDir::new().unwrap();
    let (photos, _) = photographs(folder.path());
    let logits = folder.path().join("logits.npy");
    let model = fixture("toy.onnx");
    let said = succeed(&[
        "classify",
        text(&photos),
        "--json",
        "--classifier",
        text(&model),
        "--logits",
        text(&logits),
    ]);
    let bytes = std::fs::read(&logits).unwrap();
    let (shape, values) = read_npy_f32(&bytes);
    assert_eq!(shape, [6, 4]);
    for (line, row) in said.lines().zip(values.chunks_exact(4)) {
        let line: Value = serde_json::from_str(line).unwrap();
        let top = (0..4).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        assert_eq!(line["top"][0]["label"], top);
    }
}

#[test]
fn arrays_and_exact_outputs_go_through() {
    let folder = TempDir::new().unwrap();
    let pixels: Vec<f32> = (0..2)
        .flat_map(|i| {
            let picture = smooth(i, 0.3, 8);
            (0..3).flat_map(move |c| {
                let picture = picture.clone();
                (0..1024).map(move |p| f32::from(picture.get_pixel(p % 32, p / 32).0[c]) / 255.0)
            })
        })
        .collect();
    let array = common::write(
        folder.path(),
        "x.npy",
        common::npy_f32(&[2, 3, 32, 32], &pixels),
    );
    let out = folder.path().join("out");
    let model = fixture("toy.onnx");
    let mut arguments = vec!["purify", text(&array), "-o", text(&out), "--save", "npy"];
    arguments.extend(["--classifier", text(&model)]);
    arguments.extend(QUICK);
    succeed(&arguments);
    let found = results(&out);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["x.npy#0", "x.npy#1"]);
    for (i, record) in found.values().enumerate() {
        assert_eq!(record["output_label"], i);
        let file = out.join(record["output"].as_str().unwrap());
        let bytes = std::fs::read(file).unwrap();
        assert_eq!(read_npy_f32(&bytes).0, [3, 32, 32]);
    }
}

#[test]
fn a_bad_picture_is_a_line_and_not_the_end() {
    let folder = TempDir::new().unwrap();
    let root = noisy(folder.path());
    common::write(&root, "torn.png", common::truncated_png());
    common::write(&root, "torn.jpg", common::truncated_jpeg());
    common::write(&root, "huge.png", common::huge_png());
    common::write(&root, "large.png", common::png(64, 48));
    common::write(&root, "cmyk.jpg", common::CMYK_JPEG);
    let out = folder.path().join("out");
    let model = fixture("toy.onnx");
    let mut arguments = vec![
        "purify",
        text(&root),
        "-o",
        text(&out),
        "--classifier",
        text(&model),
    ];
    arguments.extend(QUICK);
    let said = fail(1, &arguments);
    assert!(said.contains("5 of 8 pictures failed"), "{said}");
    let found = results(&out);
    assert_eq!(found.len(), 8);
    let error = |image: &str| {
        found[image]["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    for image in ["torn.png", "torn.jpg", "huge.png", "large.png", "cmyk.jpg"] {
        assert!(error(image).contains(image), "{image}: {}", error(image));
        assert!(!error(image).contains('\n'), "{image}");
    }
    // Of another size: the way out is named, and works.
    assert!(
        error("large.png").contains("--size"),
        "{}",
        error("large.png")
    );
    for image in ["0.png", "1.png", "2.png"] {
        assert_eq!(error(image), "");
    }
    let sized = folder.path().join("sized");
    let large = root.join("large.png");
    let cmyk = root.join("cmyk.jpg");
    let mut arguments = vec!["purify", text(&large), text(&cmyk), "--size", "32x32"];
    arguments.extend(["-o", text(&sized), "--classifier", text(&model)]);
    arguments.extend(QUICK);
    succeed(&arguments);
}

#[test]
fn gray_alpha_and_16_bit_pictures_are_taken() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("odd");
    std::fs::create_dir_all(&root).unwrap();
    let picture = image::DynamicImage::ImageRgb8(smooth(0, 0.0, 0));
    picture.to_luma8().save(root.join("gray.png")).unwrap();
    picture.to_rgba8().save(root.join("alpha.png")).unwrap();
    picture.to_rgb16().save(root.join("deep.png")).unwrap();
    let model = fixture("toy.onnx");
    let said = succeed(&[
        "classify",
        text(&root),
        "--json",
        "--classifier",
        text(&model),
    ]);
    assert_eq!(said.lines().count(), 3);
}

#[test]
fn bad_inputs_are_refused_in_one_line() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let model = fixture("toy.onnx");
    let good = path.join("good.png");
    smooth(0, 0.0, 0).save(&good).unwrap();
    std::fs::create_dir(path.join("empty")).unwrap();
    let nan = common::write(path, "nan.npy", common::npy_with_nan());
    let open = common::write(path, "open.npy", common::npy_u8(&[3, 32, 3], &[0; 288]));
    let kind = common::write(path, "kind.npy", common::npy_i64(&[1, 2, 3]));
    let shape = common::write(path, "shape.npy", common::npy_f32(&[7], &[0.0; 7]));
    let missing = path.join("missing.png");
    let empty = path.join("empty");
    for (input, named, way_out) in [
        (&missing, "missing.png", ""),
        (&empty, "empty", ""),
        (&open, "open.npy", "--layout"),
        (&kind, "kind.npy", "astype"),
        (&shape, "shape.npy", ""),
    ] {
        let said = fail(1, &["classify", text(input), "--classifier", text(&model)]);
        assert!(
            said.contains(named) && said.contains(way_out),
            "{named}: {said}"
        );
    }
    // A number that is no pixel is its own picture's failure.
    let output = backstitch()
        .args(["classify", text(&nan), "--classifier", text(&model)])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("nan.npy"), "{stderr}");
    assert!(fail(2, &["purify", text(&good)]).contains("--help"));
}

#[test]
fn bad_classifiers_are_refused_in_one_line() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let good = path.join("good.png");
    smooth(0, 0.0, 0).save(&good).unwrap();
    let classify = |model: &Path| fail(1, &["classify", text(&good), "--classifier", text(model)]);

    let not = common::write(path, "not.onnx", "this is no model");
    assert!(classify(&not).contains("not.onnx"));
    let bytes = std::fs::read(fixture("toy.onnx")).unwrap();
    for length in [0, 1, bytes.len() / 2, bytes.len() - 3] {
        let torn = common::write(path, "torn.onnx", &bytes[..length]);
        assert!(classify(&torn).contains("torn.onnx"), "{length} bytes");
    }
    let external = path.join("external.onnx");
    std::fs::copy(fixture("toy_external.onnx"), &external).unwrap();
    assert!(classify(&external).contains("toy_external.data"));
    let said = classify(&fixture("toy_unsupported.onnx"));
    assert!(
        said.contains("odd_Det") && said.contains("odd_NonZero"),
        "every node: {said}"
    );
    let said = classify(&fixture("toy_free_size.onnx"));
    assert!(said.contains("--size"), "{said}");
    let model = fixture("toy.onnx");
    let said = fail(
        1,
        &[
            "classify",
            text(&good),
            "--size",
            "64x64",
            "--classifier",
            text(&model),
        ],
    );
    assert!(said.contains("32") && said.contains("64"), "{said}");
    assert!(classify(&path.join("absent.onnx")).contains("absent.onnx"));
}

#[test]
fn unusual_classifiers_give_the_same_answers() {
    let folder = TempDir::new().unwrap();
    let root = noisy(folder.path());
    let labels = |model: &str, more: &[&str]| -> (Vec<Value>, String) {
        let model = fixture(model);
        let mut arguments = vec![
            "classify",
            text(&root),
            "--json",
            "--classifier",
            text(&model),
        ];
        arguments.extend(more);
        let output = backstitch().args(&arguments).output().unwrap();
        assert!(output.status.success(), "{model:?}");
        let lines = String::from_utf8(output.stdout).unwrap();
        let label =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["top"][0]["label"].clone();
        (
            lines.lines().map(label).collect(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (want, quiet) = labels("toy.onnx", &[]);
    assert_eq!((want.len(), quiet.as_str()), (3, ""));
    assert_eq!(labels("toy_batch1.onnx", &[]).0, want);
    assert_eq!(labels("toy_external.onnx", &[]).0, want);
    assert_eq!(labels("toy_free_size.onnx", &["--size", "32x32"]).0, want);
    let (softmax, warning) = labels("toy_softmax.onnx", &[]);
    assert_eq!(softmax, want);
    assert!(warning.contains("softmax"), "{warning}");
}

#[test]
fn sidecars_prepare_pictures() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let model = path.join("toy.onnx");
    std::fs::copy(fixture("toy.onnx"), &model).unwrap();
    let picture = path.join("picture.png");
    image::imageops::resize(
        &smooth(2, 0.0, 0),
        48,
        40,
        image::imageops::FilterType::Triangle,
    )
    .save(&picture)
    .unwrap();
    let classify = [
        "classify",
        text(&picture),
        "--json",
        "--classifier",
        text(&model),
    ];
    fail(1, &classify);
    for (name, sidecar) in [
        (
            "config.json",
            r#"{"input_size": [3, 32, 32], "crop_pct": 0.9, "interpolation": "bicubic"}"#,
        ),
        (
            "config.json",
            r#"{"pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0, 0, 0], "std": [1, 1, 1]}}"#,
        ),
        (
            "preprocessor_config.json",
            r#"{"do_resize": true, "size": {"shortest_edge": 36}, "do_center_crop": true, "crop_size": {"height": 32, "width": 32}, "resample": 3}"#,
        ),
    ] {
        let sidecar = common::write(path, name, sidecar);
        let said = succeed(&classify);
        let line: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(line["top"][0]["label"], 2, "{name}");
        std::fs::remove_file(sidecar).unwrap();
    }
}

#[test]
fn normalization_goes_in_front_of_the_first_layer() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("gray.png");
    // Only the mean's subtraction can make red the strongest channel of a gray picture.
    image::RgbImage::from_pixel(32, 32, image::Rgb([128; 3]))
        .save(&path)
        .unwrap();
    let model = fixture("toy.onnx");
    let said = succeed(&[
        "classify",
        text(&path),
        "--json",
        "--classifier",
        text(&model),
        "--mean",
        "0,0.3,0.3",
        "--std",
        "0.5,0.5,0.5",
    ]);
    let line: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(line["top"][0]["label"], 0);
}

#[test]
fn what_is_not_used_is_named_in_the_run_s_description() {
    let folder = TempDir::new().unwrap();
    let labels = common::npy_f32(&[2], &[1.5, 0.0]);
    let pictures = common::npy_u8(&[2, 3, 32, 32], &[9; 6144]);
    let archive = common::npz(&[("x", pictures), ("labels", labels)]);
    let archive = common::write(folder.path(), "x.npz", archive);
    let (out, model) = (folder.path().join("out"), fixture("toy.onnx"));
    let mut arguments = vec!["purify", text(&archive), "-o", text(&out)];
    arguments.extend(["--classifier", text(&model), "--mean", "0,2,0"]);
    arguments.extend(QUICK);
    succeed(&arguments);
    let about = std::fs::read_to_string(out.join("run.json")).unwrap();
    let about: Value = serde_json::from_str(&about).unwrap();
    let warnings = about["warnings"].as_array().unwrap();
    let said: Vec<&str> = warnings.iter().map(|said| said.as_str().unwrap()).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    for part in ["has label 1.5", "--mean 0,2,0 is above 1"] {
        assert!(said.iter().any(|said| said.contains(part)), "{said:?}");
    }
}

#[test]
fn failed_pictures_have_their_row() {
    let folder = TempDir::new().unwrap();
    smooth(1, 0.0, 0).save(folder.path().join("a.png")).unwrap();
    common::write(folder.path(), "b.png", common::truncated_png());
    smooth(2, 0.0, 0).save(folder.path().join("c.png")).unwrap();
    common::write(folder.path(), "list.txt", "c.png\nb.png\na.png\n");
    let model = fixture("toy.onnx");
    let list = folder.path().join("list.txt");
    let output = backstitch()
        .args(["classify", "--json", "--classifier", text(&model)])
        .args(["--list", text(&list), "--mean", "0,2,0"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<&str> = lines
        .iter()
        .map(|line| line["image"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["c.png", "b.png", "a.png"]);
    assert!(lines[1]["error"].is_string() && lines[1]["top"].is_null());
    assert!(lines[0]["error"].is_null() && lines[2]["top"].is_array());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("was probably meant").count(), 1, "{said}");
}

#[test]
fn outputs_that_cannot_be_written_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let good = path.join("good.png");
    smooth(0, 0.0, 0).save(&good).unwrap();
    let model = fixture("toy.onnx");
    let file = common::write(path, "file", "x");
    let purify = |out: &str| {
        let mut arguments = vec![
            "purify",
            text(&good),
            "-o",
            out,
            "--classifier",
            text(&model),
        ];
        arguments.extend(QUICK);
        fail(1, &arguments)
    };
    assert!(purify(text(&file)).contains("file"));
    assert!(purify("/proc/backstitch").contains("/proc/backstitch"));
}

#[test]
fn unusable_numbers_are_refused() {
    let folder = TempDir::new().unwrap();
    let good = folder.path().join("good.png");
    smooth(0, 0.0, 0).save(&good).unwrap();
    let model = fixture("toy.onnx");
    let out = folder.path().join("out");
    let purify = |more: &[&str]| {
        let mut arguments = vec![
            "purify",
            text(&good),
            "-o",
            text(&out),
            "--classifier",
            text(&model),
        ];
        arguments.extend(more);
        fail(1, &arguments)
    };
    let said = purify(&["--tile", "30"]);
    assert!(said.contains("24 or 32"), "{said}");
    for more in [
        ["--restarts", "0"],
        ["--iterations", "0"],
        ["--probe-interval", "0"],
        ["--warm-up", "1"],
        ["--push", "1,0"],
        ["--learning-rate", "nan"],
        ["--channels", "4,0"],
        ["--capacity", "0"],
        ["--tolerance", "0"],
        ["--clean-below", "2"],
        ["--view-weight", "nan"],
        ["--view-std-penalty", "nan"],
        ["--view-bound", "nan"],
        ["--neutral-lead", "inf"],
        ["--averaging", "1"],
    ] {
        let said = purify(&more);
        assert!(said.starts_with("backstitch: "), "{more:?}: {said}");
    }
    assert!(
        !out.exists(),
        "nothing is written before the options are known to be good"
    );
    let attacked = |more: &[&str]| {
        let mut arguments = vec![
            "attack",
            text(&good),
            "-o",
            text(&out),
            "--classifier",
            text(&model),
        ];
        arguments.extend(more);
        fail(1, &arguments)
    };
    assert!(
        attacked(&["--target", "4"]).contains("4 classes")
            || attacked(&["--target", "4"]).contains("has 4")
    );
    for (more, said) in [
        (
            "fgsm --steps 3",
            "--steps is no option of fgsm; its options are --eps",
        ),
        (
            "bim --no-random-start",
            "--no-random-start is no option of bim",
        ),
        ("pgd --norm l2", "--norm is no option of pgd"),
        ("mi-fgsm --queries 9", "--queries is no option of mi-fgsm"),
        ("mifgsm --seed 1", "--seed is no option of mi-fgsm"),
        (
            "deepfool --eps 4/255",
            "its options are --steps, --overshoot, --candidates",
        ),
        ("deepfool --target 1", "--target is no option of deepfool"),
        (
            "cw --step-size 0.1",
            "its options are --c, --confidence, --steps, --learning-rate",
        ),
        (
            "apgd-ce --decay 1",
            "its options are --norm, --eps, --steps, --restarts",
        ),
        ("apgd-t --target 1", "--target is no option of apgd-t"),
        (
            "square --steps 9",
            "its options are --norm, --eps, --queries, --restarts",
        ),
    ] {
        let arguments = format!("--method {more}");
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let line = attacked(&arguments);
        assert!(line.contains(said), "{more}: {line}");
    }
}

#[test]
fn every_attack_keeps_to_its_ball() {
    let folder = TempDir::new().unwrap();
    let (photos, classes) = photographs(folder.path());
    let model = fixture("toy.onnx");
    for (method, eps, norm) in [
        ("fgsm", "8/255", "linf"),
        ("bim", "0.03", "linf"),
        ("pgd", "0.03", "linf"),
        ("pgd-l2", "0.8", "l2"),
        ("mi-fgsm --decay 0.5", "0.03", "linf"),
        ("di-fgsm --resize-rate 0.8", "0.03", "linf"),
        ("ti-fgsm --kernel-size 5", "0.03", "linf"),
        ("vmi-fgsm --neighbors 2", "0.03", "linf"),
        ("si-ni-fgsm --copies 3", "0.03", "linf"),
        ("pgd-views", "0.03", "linf"),
        ("pgd-low --block 2", "0.03", "linf"),
        ("apgd-ce --steps 20", "0.03", "linf"),
        ("apgd-ce --steps 20 --norm l2", "0.8", "l2"),
        ("apgd-dlr --steps 20 --restarts 2", "0.03", "linf"),
        ("apgd-t --steps 20 --targets 2", "0.03", "linf"),
        ("square --queries 50", "0.03", "linf"),
        ("square --queries 50 --norm l2", "0.8", "l2"),
    ] {
        let out = folder.path().join(method.replace(' ', "_"));
        let mut arguments = vec![
            "attack",
            text(&photos),
            "--classes",
            text(&classes),
            "--classifier",
            text(&model),
            "--eps",
            eps,
            "-o",
            text(&out),
            "--method",
        ];
        arguments.extend(method.split(' '));
        succeed(&arguments);
        let radius = if eps == "8/255" {
            8.0 / 255.0
        } else {
            eps.parse::<f64>().unwrap()
        };
        for (image, record) in results(&out) {
            let size = record[norm].as_f64().unwrap();
            assert!(
                size <= radius * (1.0 + 1e-5) && size > 0.3 * radius,
                "{method} {image}: {size}"
            );
            // The stored picture, against the clean one.
            let clean = image::open(photos.join(&image)).unwrap().to_rgb8();
            let stored = image::open(out.join("images").join(&image))
                .unwrap()
                .to_rgb8();
            let change = clean.iter().zip(stored.iter());
            let change = change.map(|(a, b)| (f64::from(*a) - f64::from(*b)) / 255.0);
            let measured = match norm {
                "linf" => change.fold(0.0, |most: f64, x| most.max(x.abs())),
                _ => change.map(|x| x * x).sum::<f64>().sqrt(),
            };
            assert!((measured - size).abs() < 1e-5, "{method} {image}");
        }
    }
}

#[test]
fn attacks_without_a_ball_fool_as_stored() {
    let folder = TempDir::new().unwrap();
    let (photos, classes) = photographs(folder.path());
    let model = fixture("toy.onnx");
    // How far they go here: C&W finds no gradient to follow in the flat parts, and overshoots.
    for (method, most) in [
        ("deepfool --candidates 4 --overshoot 0.05", 1.7),
        ("cw --c 20 --steps 10 --learning-rate 0.1", 8.0),
    ] {
        let out = folder.path().join(method.replace(' ', "_"));
        let mut arguments = vec![
            "attack",
            text(&photos),
            "--classes",
            text(&classes),
            "--classifier",
            text(&model),
            "-o",
            text(&out),
            "--method",
        ];
        arguments.extend(method.split(' '));
        succeed(&arguments);
        let run: Value =
            serde_json::from_str(&std::fs::read_to_string(out.join("run.json")).unwrap()).unwrap();
        let name = method.split(' ').next().unwrap();
        assert_eq!(run["configuration"]["attack"]["method"], name);
        for (image, record) in results(&out) {
            assert_eq!(record["success"], true, "{method} {image}");
            let size = record["l2"].as_f64().unwrap();
            assert!(size < most, "{method} {image}: {size}");
        }
        // What is stored fools the classifier too: the success is that of the rounded picture.
        let said = succeed(&[
            "classify",
            text(&out.join("images")),
            "--classes",
            text(&classes),
            "--classifier",
            text(&model),
            "--json",
        ]);
        for line in said.lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            assert_ne!(
                record["label"], record["top"][0]["label"],
                "{method}: {line}"
            );
        }
    }
}

#[test]
fn the_help_says_every_attack_and_where_its_defaults_are_from() {
    let help = succeed(&["attack", "--help"]);
    for said in [
        "fgsm",
        "bim",
        "pgd",
        "pgd-l2",
        "mi-fgsm",
        "di-fgsm",
        "ti-fgsm",
        "vmi-fgsm",
        "si-ni-fgsm",
        "pgd-views",
        "pgd-low",
        "deepfool",
        "cw",
        "apgd-ce",
        "apgd-dlr",
        "apgd-t",
        "square",
        "as torchattacks",
        "as AutoAttack",
    ] {
        assert!(help.contains(said), "{said}");
    }
}

#[test]
fn targeted_attacks_reach_their_target() {
    let folder = TempDir::new().unwrap();
    let (photos, classes) = photographs(folder.path());
    let model = fixture("toy.onnx");
    let out = folder.path().join("out");
    succeed(&[
        "attack",
        text(&photos),
        "--classes",
        text(&classes),
        "--classifier",
        text(&model),
        "--target",
        "3",
        "-o",
        text(&out),
    ]);
    for (image, record) in results(&out) {
        assert_eq!(
            (&record["output_label"], &record["success"]),
            (&3.into(), &true.into()),
            "{image}"
        );
    }
}

#[test]
fn attacks_go_through_the_defense_where_that_is_asked_for() {
    let folder = TempDir::new().unwrap();
    // Colors so close that the perturbation can turn them, which purification does not undo.
    let photos = folder.path().join("photos");
    let mut close = smooth(0, 0.0, 0);
    for pixel in close.pixels_mut() {
        pixel[0] -= 68;
    }
    std::fs::create_dir_all(photos.join("a")).unwrap();
    close.save(photos.join("a/0.png")).unwrap();
    let classes = folder.path().join("classes.txt");
    std::fs::write(&classes, "a\nb\nc\nd\n").unwrap();
    let model = fixture("toy.onnx");
    let out = folder.path().join("out");
    let common = [
        "attack",
        text(&photos),
        "--classes",
        text(&classes),
        "--classifier",
        text(&model),
        "-o",
        text(&out),
        "--overwrite",
    ];
    let defense = "--preset cifar --iterations 60 --defense-restarts 2 --defense-seed 5";
    for (how, spent, rule) in [
        (
            "--steps 2 --step-size 8/255 --through identity",
            4,
            "identity",
        ),
        (
            // Without the defense's seed, the attack asks after each step, too.
            "--steps 2 --step-size 8/255 --through trajectory --draws 2 --attacker-seeds fresh",
            8,
            "trajectory",
        ),
        (
            "--steps 2 --step-size 8/255 --seed 1 --through decision",
            4,
            "decision",
        ),
        (
            "--method square --queries 1 --through queries",
            3,
            "queries",
        ),
    ] {
        let more = how.split(' ').chain(defense.split(' '));
        let said = succeed(&common.into_iter().chain(more).collect::<Vec<_>>());
        assert!(
            said.contains("fool the classifier behind the defense"),
            "{said}"
        );
        let run: Value =
            serde_json::from_str(&std::fs::read_to_string(out.join("run.json")).unwrap()).unwrap();
        // One to see the clean picture, one for each step and draw, one to judge.
        assert_eq!(run["purifications"], spent, "{how}");
        let configuration = &run["configuration"];
        assert_eq!(configuration["through"]["rule"], rule);
        let fresh = if how.contains("fresh") {
            "fresh"
        } else {
            "fixed"
        };
        assert_eq!(configuration["through"]["seeds"], fresh);
        assert_eq!(configuration["defense"]["reconstruct"]["seed"], 5);
        assert_eq!(configuration["defense"]["reconstruct"]["restarts"], 2);
        // The success is the defense's own error on the stored picture.
        let purified = folder.path().join("purified");
        let input = out.join("images");
        let mut arguments = vec!["purify", text(&input), "-o", text(&purified), "--overwrite"];
        arguments.extend(&common[2..6]);
        arguments.extend("--preset cifar --iterations 60 --restarts 2 --seed 5".split(' '));
        succeed(&arguments);
        let (attacked, purified) = (&results(&out)["a/0.png"], &results(&purified)["a/0.png"]);
        assert_eq!(attacked["output_label"], purified["output_label"], "{how}");
        assert_eq!(attacked["success"], purified["output_label"] != 0, "{how}");
        if ["trajectory", "decision"].contains(&rule) {
            assert_eq!(attacked["success"], true, "{how}");
        }
    }
    for (more, said) in [
        ("--draws 2", "no use for --draws; give --through"),
        ("--attacker-seeds fresh", "no use for --attacker-seeds"),
        ("--iterations 60", "no use for --iterations; give --through"),
        ("--defense-restarts 2", "no use for --defense-restarts"),
        ("--through queries", "pgd follows gradients"),
        (
            "--method square --through identity",
            "give --through queries",
        ),
        (
            "--method square --through queries --draws 3",
            "no use for --draws",
        ),
        (
            "--through identity --iterations 0",
            "--iterations must be at least 1",
        ),
    ] {
        let arguments: Vec<&str> = common.into_iter().chain(more.split(' ')).collect();
        let line = fail(1, &arguments);
        assert!(line.contains(said), "{more}: {line}");
    }
}

#[test]
fn a_machine_without_a_gpu_says_so_and_computes_on_the_processor() {
    let folder = TempDir::new().unwrap();
    let (photos, _) = photographs(folder.path());
    let model = fixture("toy.onnx");
    let classify = ["classify", text(&photos), "--classifier", text(&model)];
    let with = |more: &[&'static str]| [&classify[..], more].concat();
    let on_cpu = succeed(&with(&["--device", "cpu"]));
    let profile = ["--device", "cpu", "--profile", "trace.json"];
    let error = fail(1, &with(&profile));
    assert!(error.contains("--device cuda"), "{error}");
    // A classifier is not rounded.
    let rounded = ["--device", "cpu", "--precision", "bf16"];
    assert_eq!(succeed(&with(&rounded)), on_cpu);
    assert!(fail(2, &with(&["--device", "gpu"])).contains("--help"));

    let devices: Value = serde_json::from_str(&succeed(&["devices", "--json"])).unwrap();
    let devices = devices["devices"].as_array().unwrap();
    if devices.iter().any(|device| device["usable"] == true) {
        println!("skipped: this machine has a GPU");
        return;
    }
    assert_eq!(succeed(&classify), on_cpu);
    for device in ["cuda", "cuda:7"] {
        let error = fail(1, &with(&["--device", device]));
        assert!(error.contains("cuda:"), "{error}");
        assert!(
            error.contains("install") || error.contains("use --device cpu"),
            "{error}"
        );
    }
}

#[test]
fn devices_and_bench_speak_json() {
    let devices: Value = serde_json::from_str(&succeed(&["devices", "--json"])).unwrap();
    assert_eq!(devices["devices"][0]["device"], "cpu");
    let model = fixture("toy.onnx");
    let said = succeed(&[
        "bench",
        "--json",
        "--preset",
        "tiles",
        "--seconds",
        "0",
        "--classifier",
        text(&model),
    ]);
    let bench: Value = serde_json::from_str(&said).unwrap();
    let tiles = &bench["presets"][0];
    assert_eq!(
        (&tiles["preset"], &tiles["instances"]),
        (&"tiles".into(), &49.into())
    );
    for figure in [
        &tiles["ms_per_iteration"],
        &bench["classifier"]["ms_per_image"],
        &bench["classifier"]["ms_per_image_batch1"],
    ] {
        assert!(figure.as_f64().unwrap() > 0.0);
    }
}

#[test]
fn the_model_says_what_a_chip_needs_or_what_to_build() {
    let model = ["bench", "--model", "h100", "--preset", "tiles", "--json"];
    if !cfg!(feature = "emulator") {
        assert!(fail(1, &model).contains("--features emulator"));
        return;
    }
    let floors: Value = serde_json::from_str(&succeed(&model)).unwrap();
    assert_eq!(floors["chip"]["name"], "h100");
    let [path, ..] = &floors["presets"].as_array().unwrap()[..] else {
        panic!("no path in {floors}");
    };
    assert_eq!(
        (&path["preset"], &path["side"]),
        (&"tiles".into(), &32.into())
    );
    let seconds = |value: &Value| value["seconds"].as_f64().unwrap();
    let kernels = path["kernels"].as_array().unwrap();
    let sum: f64 = kernels.iter().map(seconds).sum();
    assert!(sum > 0.0 && (sum / seconds(path) - 1.0).abs() < 1e-9);
    let table = succeed(&model[..5]);
    assert!(
        table.contains("tiles, 32x32") && table.contains("dip_adam"),
        "{table}"
    );
    fail(2, &["bench", "--model", "z80"]);
}
