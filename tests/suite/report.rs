//! The report in a browser (headless Chromium), and the pictures of `trace`, through the binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use backstitch::run::ImageRecord;
use backstitch::run::report::{MAX_PICTURES, Report};
use serde_json::Value;
use tempfile::TempDir;

use crate::common;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Runs a command line; gives its exit code and its stderr.
fn backstitch(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_backstitch"))
        .args(arguments)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    (output.status.code(), stderr)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A smooth picture of one color, with a faint checkerboard where it shall look adversarial.
fn picture(path: &Path, label: usize, noise: i32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixels = image::RgbImage::from_fn(32, 32, |x, y| {
        let wave = 20.0 * (0.2 * f64::from(x) + 0.15 * f64::from(y)).sin();
        let sign = if (x + y).is_multiple_of(2) { 1 } else { -1 };
        image::Rgb(std::array::from_fn(|channel| {
            let base = if channel == label { 170 } else { 90 };
            (base + wave as i32 + noise * sign) as u8
        }))
    });
    pixels.save(path).unwrap();
}

const QUICK: [&str; 10] = [
    "--iterations",
    "200",
    "--probe-interval",
    "20",
    "--restarts",
    "2",
    "--preset",
    "cifar",
    "--device",
    "cpu",
];

/// Where Chromium is. `None` where it is absent and may be: CI and `BACKSTITCH_CHROMIUM=require` need it;
/// any other value of that is its path.
fn chromium() -> Option<PathBuf> {
    let said = std::env::var("BACKSTITCH_CHROMIUM").unwrap_or_default();
    if !said.is_empty() && said != "require" {
        return Some(said.into());
    }
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|path| path.is_file());
    let required = said == "require" || std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(
        found.is_some() || !required,
        "Chromium is required here: install the package chromium"
    );
    if found.is_none() {
        println!("skipped: Chromium is not installed");
    }
    found
}

/// The page's document after its scripts ran, with the view that the address asks for. A message on the
/// browser's console is a failure.
fn load(chromium: &Path, page: &Path, view: &str) -> String {
    let profile = TempDir::new().unwrap();
    let output = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu"])
        .args(["--disable-dev-shm-usage", "--enable-logging=stderr"])
        .args(["--window-size=1280,900", "--virtual-time-budget=10000"])
        .arg(format!("--user-data-dir={}", text(profile.path())))
        .arg("--dump-dom")
        .arg(format!("file://{}#{view}", text(page)))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(!stderr.contains("CONSOLE"), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// The rows of a document, in their order.
fn rows(document: &str) -> Vec<&str> {
    document.split("<article").skip(1).collect()
}

/// The names of a document's rows, in their order.
fn names(document: &str) -> Vec<String> {
    let name = |row: &&str| {
        let from = row.find("class=\"name\"").expect("a row has a name");
        let row = &row[from..];
        let (from, to) = (row.find('>').unwrap() + 1, row.find("</p>").unwrap());
        // The page breaks a name into two spans, so that a long one loses its middle.
        row[from..to].replace("<span>", "").replace("</span>", "")
    };
    rows(document).iter().map(name).collect()
}

#[test]
fn a_run_s_report_shows_filters_and_sorts() {
    let folder = TempDir::new().unwrap();
    let photos = folder.path().join("photos");
    picture(&photos.join("a/clean.png"), 0, 0);
    picture(&photos.join("a/hit'\"<b>&amp;.png"), 0, 8);
    picture(&photos.join("b/clean.png"), 1, 0);
    common::write(&photos, "b/torn.png", common::truncated_png());
    let classes = folder.path().join("classes.txt");
    std::fs::write(&classes, "a\t</script><i>\"red\"\nb\tgreen\nc\nd\n").unwrap();
    let (out, model) = (folder.path().join("out"), fixture("toy.onnx"));
    let mut arguments = vec!["purify", text(&photos), "-o", text(&out)];
    arguments.extend(["--classes", text(&classes), "--classifier", text(&model)]);
    arguments.extend(QUICK);
    assert_eq!(backstitch(&arguments).0, Some(1), "one picture is torn");

    let Some(chromium) = chromium() else { return };
    let page = out.join("report.html");
    let all = load(&chromium, &page, "sort=name");
    let hostile = "a/hit'\"&lt;b&gt;&amp;amp;.png";
    assert_eq!(
        names(&all),
        ["a/clean.png", hostile, "b/clean.png", "b/torn.png"]
    );
    let hit = rows(&all)[1];
    for shown in [
        "class=\"badge adversarial\"",
        "0 &lt;/script&gt;&lt;i&gt;\"red\"",
        "PSNR ",
        "<canvas",
        "seed 0 ",
        "consensus ",
        "alt=\"difference of ",
    ] {
        assert!(hit.contains(shown), "{shown}: {hit}");
    }
    assert_eq!(hit.matches("<img").count(), 3);
    assert!(rows(&all)[3].contains("badge failed"));
    assert!(all.contains("<b>2 of 3 (66.7%)</b>"), "input labels right");
    assert!(
        all.contains("<b>3 of 3 (100.0%)</b>"),
        "output labels right"
    );

    for (view, shown) in [
        ("verdict=adversarial", vec![hostile]),
        ("verdict=failed", vec!["b/torn.png"]),
        ("labels=repaired", vec![hostile]),
        (
            "labels=input-right&sort=name&order=down",
            vec!["b/clean.png", "a/clean.png"],
        ),
        ("text=GREEN&sort=name", vec!["b/clean.png", "b/torn.png"]),
        ("text=nowhere", vec![]),
        (
            "verdict=clean&sort=label",
            vec!["a/clean.png", "b/clean.png"],
        ),
        (
            "verdict=clean&sort=score&order=down&text=b/",
            vec!["b/clean.png"],
        ),
    ] {
        assert_eq!(names(&load(&chromium, &page, view)), shown, "{view}");
    }
    let open = load(&chromium, &page, "picture=b%2Fclean.png");
    let dialog = &open[open.find("<dialog").unwrap()..];
    assert!(dialog.contains("open=\"\"") && dialog.contains("push β"));
    assert!(dialog.contains("b/clean.png</h2>"));
}

#[test]
fn ten_thousand_pictures_are_few_elements() {
    let folder = TempDir::new().unwrap();
    let page = folder.path().join("report.html");
    let report = Report::open(&page, "purify", None).unwrap();
    for i in 0..MAX_PICTURES {
        let record = ImageRecord {
            image: format!("{i:05}.png"),
            label: Some(i % 10),
            input_label: Some(i % 7),
            output_label: Some(i % 10),
            score: Some(i as f32 / MAX_PICTURES as f32),
            ..ImageRecord::default()
        };
        report.add(&record, None, None).unwrap();
    }
    let Some(chromium) = chromium() else { return };
    let document = load(&chromium, &page, "sort=score&order=down");
    assert!(document.contains("10000 of 10000"));
    let rows = names(&document);
    assert_eq!(rows[..2], ["09999.png", "09998.png"]);
    assert!(rows.len() < 40, "{} rows", rows.len());
    let elements = document.matches("</").count();
    assert!(elements < 1000, "{elements} elements");
    let found = load(&chromium, &page, "text=0123&labels=output-right");
    assert!(found.contains("11 of 10000"), "00123, 01230 to 01239");
}

#[test]
fn trace_draws_one_picture() {
    let folder = TempDir::new().unwrap();
    let image = folder.path().join("a/x&<y>.png");
    picture(&image, 0, 8);
    let classes = folder.path().join("classes.txt");
    std::fs::write(&classes, "a\t\"red\" & <b>\nb\nc\nd\n").unwrap();
    let model = fixture("toy.onnx");
    let trace = |out: &Path, more: &[&str]| {
        let mut arguments = vec!["trace", text(&image), "-o", text(out)];
        arguments.extend(["--classes", text(&classes), "--classifier", text(&model)]);
        arguments.extend(QUICK);
        arguments.extend(more);
        backstitch(&arguments)
    };
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    assert_eq!(trace(&first, &[]).0, Some(0));
    assert_eq!(trace(&second, &[]).0, Some(0));
    let read = |out: &Path, name: &str| std::fs::read(out.join(name)).unwrap();
    for name in ["trace.svg", "trace.png", "trace.json"] {
        assert!(read(&first, name) == read(&second, name), "{name}");
    }
    let svg = String::from_utf8(read(&first, "trace.svg")).unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let texts: Vec<_> = document.descendants().filter_map(|n| n.text()).collect();
    for shown in ["x&<y>.png", "0 \"red\" & <b>", "adversarial", "consensus"] {
        assert!(texts.contains(&shown), "{shown}: {texts:?}");
    }
    let png = image::load_from_memory(&read(&first, "trace.png")).unwrap();
    assert_eq!((png.width(), png.height()), (2480, 1800));
    let json: Value = serde_json::from_slice(&read(&first, "trace.json")).unwrap();
    assert_eq!(
        (&json["label"], &json["output"]["label"]),
        (&0.into(), &0.into())
    );
    assert_eq!(json["input"]["label"], 3);
    let paths = json["paths"].as_array().unwrap();
    assert_eq!(paths.len(), 3);
    for path in paths {
        assert_eq!(path["trajectory"].as_array().unwrap().len(), 10);
    }

    let (code, said) = trace(&first, &[]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("--overwrite") && said.lines().count() == 1,
        "{said}"
    );
    assert_eq!(trace(&first, &["--overwrite"]).0, Some(0));
}

#[test]
fn trace_takes_one_picture_and_says_so() {
    let folder = TempDir::new().unwrap();
    let photos = folder.path().join("photos");
    picture(&photos.join("1.png"), 0, 0);
    picture(&photos.join("2.png"), 1, 0);
    let (out, model) = (folder.path().join("out"), fixture("toy.onnx"));
    let trace = |image: &Path, out: &Path| {
        let mut arguments = vec!["trace", text(image), "-o", text(out)];
        arguments.extend(["--classifier", text(&model)]);
        backstitch(&arguments)
    };
    let file = common::write(folder.path(), "file", "");
    let torn = common::write(folder.path(), "torn.png", common::truncated_png());
    for (image, out, said) in [
        (&photos, &out, "has 2 pictures"),
        (&photos.join("3.png"), &out, "3.png"),
        (&torn, &out, "torn.png"),
        (&photos.join("1.png"), &file, "is a file"),
    ] {
        let (code, stderr) = trace(image, out);
        assert_eq!(code, Some(1));
        assert!(
            stderr.contains(said) && stderr.lines().count() == 1,
            "{stderr}"
        );
    }
}
