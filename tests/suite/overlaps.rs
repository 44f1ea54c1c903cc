//! Outputs that are inputs are refused before anything is written, and nothing of anybody else is removed. Outputs of
//! runs that are over are inputs as all others are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use assert_cmd::cargo::CommandCargoExt;
use tempfile::TempDir;

use crate::common::{self, fixture, results};

/// Every file under a folder, with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let walk = walkdir::WalkDir::new(folder).into_iter().flatten();
    walk.filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            (
                entry.path().to_owned(),
                std::fs::read(entry.path()).unwrap(),
            )
        })
        .collect()
}

/// A folder `data` with the pictures `images/0.png` to `2.png`, and `model.onnx` beside it.
fn case() -> TempDir {
    let folder = TempDir::new().unwrap();
    let images = fixture("cases/outputs-over-inputs/images");
    for (path, bytes) in files(&images) {
        let name = path.file_name().unwrap().to_str().unwrap();
        common::write(folder.path(), &format!("data/images/{name}"), bytes);
    }
    let model = std::fs::read(fixture("toy.onnx")).unwrap();
    common::write(folder.path(), "model.onnx", model);
    folder
}

/// Runs a command line in a folder; gives its exit code and stderr.
fn run(folder: &Path, line: &str) -> (i32, String) {
    let mut command = Command::cargo_bin("backstitch").unwrap();
    let output = command
        .current_dir(folder)
        .args(line.split(' '))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("panicked"), "{line}: {said}");
    (output.status.code().unwrap(), said)
}

const PURIFY: &str =
    "--classifier model.onnx --preset cifar --iterations 5 --restarts 1 --no-report";

/// A command line that must be refused with one line that has all of `names`, no file being changed.
fn refused(folder: &Path, line: &str, names: &[&str]) {
    let before = files(folder);
    let (code, said) = run(folder, line);
    assert_eq!((code, said.lines().count()), (1, 1), "{line}: {said}");
    for name in names {
        assert!(said.contains(name), "{line}: {said}");
    }
    assert!(files(folder) == before, "{line} changed a file: {said}");
}

#[test]
fn run_folders_over_their_inputs_are_refused() {
    let folder = case();
    let folder = folder.path();
    #[cfg(unix)]
    std::os::unix::fs::symlink("data", folder.join("link")).unwrap();
    for (input, out) in [
        ("data/images", "data"),
        ("data/images/0.png", "data"),
        ("data", "data"),
        #[cfg(unix)]
        ("link/images", "data"),
        #[cfg(unix)]
        ("data/images/1.png", "link"),
    ] {
        for more in ["", " --overwrite", " --resume", " --tar-out"] {
            let line = format!("purify {input} -o {out} {PURIFY}{more}");
            refused(folder, &line, &[input, &format!("{out}/images")]);
        }
        let line = format!("attack {input} -o {out} --classifier model.onnx --method fgsm");
        refused(folder, &line, &[input, &format!("{out}/images")]);
    }
    let line = format!("purify images -o . {PURIFY}").replace("model.onnx", "../model.onnx");
    refused(&folder.join("data"), &line, &["images"]);
    // By a manifest, and by one that comes as a stream, of which the line fails alone.
    common::write(
        folder,
        "list.jsonl",
        "{\"file\": \"./data/images/2.png\"}\n",
    );
    let line = format!("purify list.jsonl -o data {PURIFY}");
    refused(folder, &line, &["data/images/2.png"]);
    let before = files(&folder.join("data/images"));
    let mut command = Command::cargo_bin("backstitch").unwrap();
    let list = std::fs::File::open(folder.join("list.jsonl")).unwrap();
    let line = format!("purify - -o data {PURIFY}");
    let streamed = command
        .current_dir(folder)
        .args(line.split(' '))
        .stdin(list);
    assert_eq!(streamed.output().unwrap().status.code(), Some(1));
    assert!(files(&folder.join("data/images")) == before);
    let failed = &results(&folder.join("data"))["./data/images/2.png"]["error"];
    assert!(
        failed.as_str().unwrap().contains("outputs are written"),
        "{failed}"
    );
}

#[test]
fn single_files_over_inputs_are_refused() {
    let folder = case();
    let folder = folder.path();
    let model = std::fs::read(folder.join("model.onnx")).unwrap();
    common::write(
        folder,
        "data/array.npy",
        common::npy_u8(&[1, 3, 32, 32], &[7; 3072]),
    );
    common::write(folder, "data/labels.npy", common::npy_i64(&[1]));
    common::write(folder, "classes.txt", "images\n");
    let classify = "--classifier model.onnx --classes classes.txt";
    for option in ["--logits", "--jsonl", "--metrics"] {
        for (input, file) in [
            ("data/images", "data/images/1.png"),
            ("data/images/0.png", "data/images/../images/0.png"),
            ("data/images", "model.onnx"),
            ("data/images", "classes.txt"),
            ("data/array.npy", "data/array.npy"),
            ("data/array.npy", "data/labels.npy"),
        ] {
            refused(
                folder,
                &format!("classify {input} {classify} {option} {file}"),
                &[file],
            );
        }
    }
    let line = format!("purify data/images -o out {PURIFY} --jsonl data/images/1.png");
    refused(folder, &line, &["data/images/1.png", "--jsonl"]);
    let line = format!("purify data/images -o out {PURIFY} --jsonl out/results.jsonl");
    refused(folder, &line, &["--jsonl", "--output"]);
    // The model is where the run's files go, and so is a trace's picture.
    common::write(folder, "out/report.html", &model);
    let line = format!("purify data/images -o out {PURIFY} --overwrite");
    let line = line.replace("model.onnx", "out/report.html");
    refused(folder, &line, &["out/report.html"]);
    std::fs::rename(
        folder.join("data/images/2.png"),
        folder.join("data/trace.png"),
    )
    .unwrap();
    let line = "trace data/trace.png -o data --classifier model.onnx --overwrite";
    refused(folder, line, &["data/trace.png"]);
}

#[test]
fn evaluations_over_what_they_read_are_refused() {
    let folder = case();
    let folder = folder.path();
    let picture = std::fs::read(folder.join("data/images/0.png")).unwrap();
    common::write(folder, "out/attacked/pgd/0.png", picture);
    let line = "{\"file\": \"attacked/pgd/0.png\", \"label\": 1, \"attack\": \"pgd\"}\n";
    common::write(folder, "out/attacked.jsonl", line);
    for set in ["out/attacked.jsonl", "list.jsonl"] {
        common::write(
            folder,
            "list.jsonl",
            line.replace("attacked/", "out/attacked/"),
        );
        let line = format!("evaluate --attacked {set} -o out --classifier model.onnx --overwrite");
        refused(folder, &line, &["out/attacked"]);
    }
}

#[test]
fn outputs_below_an_input_do_not_become_inputs() {
    let folder = case();
    let folder = folder.path();
    let before = files(&folder.join("data/images"));
    for more in ["", " --resume", " --overwrite"] {
        let line = format!("purify data/images -o data/images/out {PURIFY}{more}");
        let (code, said) = run(folder, &line);
        assert_eq!(code, 0, "{said}");
        assert_eq!(
            said.contains("skipped, holds a run"),
            !more.is_empty(),
            "{said}"
        );
        let results = results(&folder.join("data/images/out"));
        assert_eq!(
            results.keys().collect::<Vec<_>>(),
            ["0.png", "1.png", "2.png"]
        );
    }
    let after = files(&folder.join("data/images"));
    assert!(before.iter().all(|(path, bytes)| after[path] == *bytes));
}

#[test]
fn files_that_no_run_wrote_are_neither_replaced_nor_removed() {
    let folder = case();
    let folder = folder.path();
    // A picture of the output's name, where no run was; and files of a run's names.
    let picture = common::png(32, 32);
    for (name, bytes) in [
        ("out/images/1.png", &picture[..]),
        ("out/report.html", b"<html>mine</html>"),
        ("out/run.json", b"{\"command\": \"train\"}"),
        ("out/results.jsonl", b"{\"loss\": 0.1}\n"),
        ("out/evaluation.json", b"{}"),
    ] {
        common::write(folder, name, bytes);
        for more in ["--overwrite", "--resume"] {
            let line = format!("purify data/images -o out {PURIFY} {more}");
            let (code, said) = run(folder, &line);
            assert_eq!((code, said.lines().count()), (1, 1), "{name}: {said}");
            assert!(said.contains(name), "{said}");
            assert_eq!(std::fs::read(folder.join(name)).unwrap(), bytes, "{name}");
        }
        std::fs::remove_dir_all(folder.join("out")).unwrap();
    }
    // Beside a run: that goes, and the stranger stays.
    let line = format!("purify data/images -o out {PURIFY}");
    assert_eq!(run(folder, &line).0, 0);
    common::write(folder, "out/images/mine.png", &picture);
    let line = format!("purify data/images/0.png -o out {PURIFY} --overwrite");
    assert_eq!(run(folder, &line).0, 0);
    let left = files(&folder.join("out/images"));
    let names: Vec<_> = left.keys().map(|path| path.file_name().unwrap()).collect();
    assert_eq!(names, ["0.png", "mine.png"]);
    assert!(left[&folder.join("out/images/mine.png")] == picture);
}

#[test]
fn outputs_of_a_run_are_inputs_with_their_labels() {
    /// The toy says 3 of each.
    const LABELS: [u64; 3] = [3, 3, 1];
    let folder = case();
    let folder = folder.path();
    common::write(folder, "data/list.jsonl", {
        let line = |i: usize| {
            format!(
                "{{\"file\": \"images/{i}.png\", \"label\": {}}}\n",
                LABELS[i]
            )
        };
        (0..3).map(line).collect::<String>()
    });
    let made =
        "attack data/list.jsonl --classifier model.onnx --method fgsm -o attacked --no-report";
    assert_eq!(run(folder, made).0, 0);
    let exact = format!("purify attacked --save npy -o exact {PURIFY}");
    assert_eq!(run(folder, &exact).0, 0);
    let labels = |line: &str| -> Vec<(String, Option<u64>)> {
        let line = format!("classify {line} --classifier model.onnx --jsonl all.jsonl");
        let (code, said) = run(folder, &line);
        assert_eq!(code, 0, "{said}");
        let text = std::fs::read_to_string(folder.join("all.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let mut named: Vec<_> = lines
            .map(|line: serde_json::Value| {
                let image = line["image"].as_str().unwrap();
                (image.to_owned(), line["label"].as_u64())
            })
            .collect();
        named.sort();
        named
    };
    let wanted = |before: &str, after: &str| -> Vec<(String, Option<u64>)> {
        let named = (0..3).map(|i| (format!("{before}{i}.{after}"), Some(LABELS[i])));
        named.collect()
    };
    assert_eq!(labels("attacked"), wanted("images/images/", "png"));
    assert_eq!(labels("attacked/images"), wanted("images/", "png"));
    assert_eq!(labels("exact"), wanted("images/images/images/", "npy"));
    // What the run did not write is named and left.
    common::write(folder, "attacked/images/mine.png", common::png(32, 32));
    let (code, said) = run(folder, "classify attacked --classifier model.onnx");
    assert_eq!(code, 0);
    assert!(said.contains("does not list 1 of the pictures"), "{said}");
    let line = "evaluate data/list.jsonl --attacked attacked --classifier model.onnx --preset cifar \
                --iterations 5 --restarts 1 --attacks noise --baselines jpeg-75 -o judged";
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(run(folder, &line).0, 0);
    let cells = std::fs::read_to_string(folder.join("judged/cells.jsonl")).unwrap();
    let cells: Vec<serde_json::Value> = cells
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        cells
            .iter()
            .all(|cell| cell["image"].as_str().unwrap().starts_with("images/"))
    );
    let given = cells
        .iter()
        .filter(|cell| cell["attack"] == "given:attacked");
    assert_eq!(given.count(), 2, "of those that are right when clean");
}

#[test]
fn labels_beyond_the_classifiers_classes_fail_in_every_command() {
    let folder = case();
    let folder = folder.path();
    let list = "{\"file\": \"data/images/0.png\", \"label\": 4}\n{\"file\": \"data/images/1.png\", \"label\": 1}\n";
    common::write(folder, "list.jsonl", list);
    for command in [
        format!("purify list.jsonl -o purified {PURIFY}"),
        "classify list.jsonl --classifier model.onnx".to_owned(),
        "attack list.jsonl -o attacked --method fgsm --classifier model.onnx".to_owned(),
        format!("evaluate list.jsonl -o evaluated --attacks noise {PURIFY}")
            .replace(" --no-report", ""),
        format!("trace one.jsonl -o traced {PURIFY}").replace(" --no-report", ""),
    ] {
        common::write(folder, "one.jsonl", list.lines().next().unwrap());
        let (code, said) = run(folder, &command);
        assert_eq!(code, 1, "{command}: {said}");
        let line = "data/images/0.png: has label 4; the classifier has 4 classes, from 0 on";
        assert!(said.contains(line), "{command}: {said}");
    }
    for out in ["purified", "attacked"] {
        let results = results(&folder.join(out));
        assert!(results["data/images/0.png"]["error"].is_string());
        assert!(results["data/images/1.png"]["error"].is_null());
    }
}

#[test]
fn what_standard_input_may_name_is_not_lost() {
    let folder = case();
    let folder = folder.path();
    let lines = "{\"file\": \"data/images/0.png\"}\n{\"file\": \"data/images/1.png\"}\n";
    common::write(folder, "list.jsonl", lines);
    let streamed = |line: &str| -> (i32, String) {
        let output = Command::cargo_bin("backstitch")
            .unwrap()
            .current_dir(folder)
            .args(line.split(' '))
            .stdin(std::fs::File::open(folder.join("list.jsonl")).unwrap())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), said)
    };
    assert_eq!(streamed(&format!("purify - -o out {PURIFY}")).0, 0);
    let before = files(folder);
    for (line, named) in [
        (
            "classify - --classifier model.onnx --jsonl data/images/1.png",
            "1.png",
        ),
        (
            "classify - --classifier model.onnx --logits data/images/0.png",
            "0.png",
        ),
        (
            "classify - --classifier model.onnx --jsonl list.jsonl",
            "is standard input",
        ),
        (
            &format!("purify - -o other {PURIFY} --metrics data/images/2.png"),
            "2.png",
        ),
        (
            &format!("purify - -o out {PURIFY} --overwrite"),
            "out/images",
        ),
    ] {
        let (code, said) = streamed(line);
        assert_eq!((code, said.lines().count()), (1, 1), "{line}: {said}");
        assert!(said.contains(named), "{line}: {said}");
        assert!(files(folder) == before, "{line} changed a file: {said}");
    }
}

#[test]
fn a_folder_of_pictures_is_no_run_folder() {
    let folder = case();
    let folder = folder.path();
    let line = format!("purify data/images -o data/images {PURIFY}");
    refused(folder, &line, &["data/images", "is the input"]);
    // A sidecar that says nothing is read all the same.
    common::write(folder, "preprocessor_config.json", "{}");
    let line = "classify data/images --classifier model.onnx --logits preprocessor_config.json";
    refused(folder, line, &["preprocessor_config.json"]);
}
