//! `backstitch evaluate` through the command line, on a small classifier (`fixtures/models.py`).

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

use crate::common;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/toy.onnx")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Class folders `a` to `c` of two smooth pictures each, the classifier right about all, and one picture
/// of `b` in folder `a`.
struct Pictures {
    folder: TempDir,
}

impl Pictures {
    fn new() -> Pictures {
        let folder = TempDir::new().unwrap();
        let root = folder.path().join("photos");
        for (label, class) in ["a", "b", "c"].into_iter().enumerate() {
            std::fs::create_dir_all(root.join(class)).unwrap();
            for i in 0..2 {
                let phase = i as f64 + label as f64;
                let path = root.join(class).join(format!("{i}.png"));
                smooth(label, phase).save(path).unwrap();
            }
        }
        smooth(1, 5.0).save(root.join("a/wrong.png")).unwrap();
        std::fs::write(folder.path().join("classes.txt"), "a\nb\nc\nd\n").unwrap();
        Pictures { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An evaluation of the pictures into `out`.
    fn evaluate(&self, out: &Path, more: &[&str]) -> Command {
        let mut command = Command::cargo_bin("backstitch").unwrap();
        command.arg("evaluate").arg(self.path("photos"));
        command.arg("--classes").arg(self.path("classes.txt"));
        command.arg("--classifier").arg(model());
        command.arg("-o").arg(out);
        command.args([
            "--preset",
            "cifar",
            "--iterations",
            "100",
            "--restarts",
            "2",
        ]);
        command.args(more);
        command
    }
}

/// A smooth picture whose strongest channel is `label`.
fn smooth(label: usize, phase: f64) -> image::RgbImage {
    image::RgbImage::from_fn(32, 32, |x, y| {
        let wave = 20.0 * (0.2 * f64::from(x) + 0.15 * f64::from(y) + phase).sin();
        image::Rgb(std::array::from_fn(|channel| {
            let base = if channel == label { 170.0 } else { 90.0 };
            (base + wave) as u8
        }))
    })
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail with one line; gives it.
fn fail(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr.lines().last().unwrap_or_default().to_owned()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// `evaluation.json` without times.
fn timeless(out: &Path) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.shift_remove("seconds");
                fields.values_mut().for_each(strip);
            }
            Value::Array(all) => all.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut evaluation = json(&out.join("evaluation.json"));
    strip(&mut evaluation);
    evaluation
}

/// A defense against an attack.
fn cell<'a>(evaluation: &'a Value, attack: &str, defense: &str) -> &'a Value {
    let find = |all: &'a Value, key: &str, name: &str| {
        let all = all.as_array().unwrap();
        all.iter().find(|one| one[key] == name).unwrap()
    };
    let attack = find(&evaluation["attacks"], "name", attack);
    find(&attack["defenses"], "defense", defense)
}

const DEFENSES: [&str; 14] = [
    "none",
    "jpeg-75",
    "jpeg-50",
    "bits-3",
    "bits-2",
    "median-3",
    "median-5",
    "tv-0.05",
    "tv-0.1",
    "dipdefend",
    "reconstruction",
    "boundary",
    "push",
    "backstitch",
];

#[test]
fn the_table_has_every_attack_and_every_defense() {
    let pictures = Pictures::new();
    let out = pictures.path("out");
    let attacks = "noise:8/255,fgsm:8/255,pgd:8/255,square:8/255,cw,pgd@identity:8/255";
    let more = [
        "--attacks",
        attacks,
        "--queries",
        "40",
        "--defended-steps",
        "2",
        "--save-attacked",
    ];
    let said = succeed(&mut pictures.evaluate(&out, &more));
    assert!(said.contains("6 pictures count, 6 of 6 kept"), "{said}");

    let evaluation = json(&out.join("evaluation.json"));
    assert_eq!(evaluation["state"], "done");
    assert_eq!(evaluation["pictures"]["seen"], 7);
    assert_eq!(evaluation["pictures"]["counted"], 6);
    let excluded = &evaluation["pictures"]["excluded"][0];
    assert_eq!(excluded["image"], "a/wrong.png");
    assert_eq!(excluded["reason"], "wrong-when-clean");
    assert_eq!(excluded["predicted"], 1);
    let rows = evaluation["defenses"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, DEFENSES);

    for defense in ["none", "backstitch"] {
        let clean = &cell(&evaluation, "clean", defense)["right"];
        assert_eq!((&clean["count"], &clean["of"]), (&6.into(), &6.into()));
        assert!((clean["low"].as_f64().unwrap() - 0.6097).abs() < 1e-4);
    }
    let pgd = cell(&evaluation, "pgd-linf-8", "none");
    assert_eq!(
        (&pgd["right"]["count"], &pgd["threat"]),
        (&0.into(), &"white-box".into())
    );
    let ours = cell(&evaluation, "pgd-linf-8", "backstitch");
    assert_eq!(ours["threat"], "transfer");
    assert_eq!(ours["right"], ours["right_of_fooled"], "all are fooled");
    assert!(ours["right"]["count"].as_u64() > pgd["right"]["count"].as_u64());
    assert!(ours["psnr"].as_f64().unwrap() > 20.0);
    let adaptive = cell(&evaluation, "pgd-linf-8@identity", "backstitch");
    assert_eq!(adaptive["threat"], "adaptive");
    let static_one = &evaluation["attacks"][3];
    assert_eq!(
        static_one["statement"],
        "transfer from the undefended classifier: an upper bound of robustness, not a robustness claim"
    );
    let detected = &evaluation["detection"]["attacks"][2];
    assert_eq!(detected["attack"], "pgd-linf-8");
    assert!(detected["area"].as_f64().unwrap() > 0.5);
    assert_eq!(evaluation["flags"].as_array().unwrap().len(), 10);
    let few = evaluation["flags"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&few["id"], &few["state"]),
        (&"too-few-pictures".into(), &"raised".into())
    );
    let worst = evaluation["worst_cases"].as_array().unwrap();
    assert_eq!(worst[0]["title"], "worst case, every attack");
    assert_eq!(worst[1]["title"], "worst case, L∞ up to 8/255");
    assert_eq!(worst[0]["right"]["none"]["count"], 0);

    for name in ["evaluation.md", "evaluation.html"] {
        let page = std::fs::read_to_string(out.join(name)).unwrap();
        for part in [
            "an upper bound of robustness",
            "PGD-20",
            "backstitch",
            "RAISED",
        ] {
            assert!(page.contains(part), "{name}: {part}");
        }
    }
    // The kept pictures are what was judged, and can be read as a data set.
    let manifest = std::fs::read_to_string(out.join("attacked.jsonl")).unwrap();
    assert_eq!(manifest.lines().count(), 6 * 7);
    for line in manifest.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(out.join(line["file"].as_str().unwrap()).exists());
    }
}

#[test]
fn sizes_give_curves_and_the_size_that_breaks_the_median_picture() {
    let pictures = Pictures::new();
    let out = pictures.path("out");
    let more = "--attacks fgsm,pgd@identity --eps 0.5/255,4/255,32/255 --defended-steps 2 --baselines jpeg-75 \
                --limit 2 --exact";
    let more: Vec<&str> = more.split_whitespace().collect();
    let said = succeed(&mut pictures.evaluate(&out, &more));
    assert!(said.contains(" of 2 right in the worst case"), "{said}");

    let evaluation = json(&out.join("evaluation.json"));
    let curves = evaluation["curves"].as_array().unwrap();
    let titles: Vec<&str> = curves
        .iter()
        .map(|c| c["title"].as_str().unwrap())
        .collect();
    assert_eq!(
        titles,
        [
            "worst case, every attack",
            "FGSM",
            "PGD-2, through the defense by identity"
        ]
    );
    for curve in curves {
        let points = curve["points"].as_array().unwrap();
        let levels = points
            .iter()
            .map(|p| (510.0 * p["eps"].as_f64().unwrap()).round());
        assert_eq!(levels.collect::<Vec<_>>(), [0.0, 1.0, 8.0, 64.0]);
        assert_eq!(points[0]["right"]["none"]["count"], 2);
    }
    // What a curve says is what the attack's row says, and the worst of both rows bounds the worst case.
    let none = |attack| cell(&evaluation, attack, "none")["right"]["count"].as_u64();
    let fgsm = &curves[1]["points"].as_array().unwrap()[3];
    assert_eq!(fgsm["attacks"][0], "fgsm-linf-32");
    assert_eq!(
        fgsm["right"]["none"]["count"].as_u64(),
        none("fgsm-linf-32")
    );
    assert_eq!(
        none("fgsm-linf-32"),
        Some(0),
        "so large a step fools the classifier"
    );
    assert_eq!(curves[0]["points"][3]["right"]["none"]["count"], 0);
    let breaking = evaluation["breaking"].as_array().unwrap();
    let names: Vec<&str> = breaking
        .iter()
        .map(|b| b["defense"].as_str().unwrap())
        .collect();
    assert_eq!(
        (names[0], names[1], names.last()),
        ("none", "jpeg-75", Some(&"backstitch"))
    );
    assert_eq!(
        (&breaking[0]["at_least"], &breaking[0]["ratio"]),
        (&false.into(), &1.0.into())
    );

    let text = std::fs::read_to_string(out.join("evaluation.md")).unwrap();
    let page = std::fs::read_to_string(out.join("evaluation.html")).unwrap();
    for part in [
        "Worst case of every attack",
        "The median picture breaks at",
        "Help and harm",
    ] {
        assert!(text.contains(part) && page.contains(part), "{part}");
    }
    let first = text
        .lines()
        .find(|line| line.starts_with("| worst case"))
        .unwrap();
    assert!(
        first.starts_with("| worst case, every attack | 6 |"),
        "{first}"
    );
    assert!(text.contains("| attack | defense | clean | 0.5/255 | 4/255 | 32/255 |"));
    assert!(page.contains("<svg") && !page.contains("http:"));
}

#[test]
fn a_cut_journal_goes_on_to_the_same_evaluation() {
    let pictures = Pictures::new();
    let (whole, cut) = (pictures.path("whole"), pictures.path("cut"));
    let attacks = ["--attacks", "noise,pgd:8/255", "--limit", "5"];
    succeed(&mut pictures.evaluate(&whole, &attacks));
    succeed(&mut pictures.evaluate(&cut, &attacks));
    let journal = cut.join("cells.jsonl");
    let lines = std::fs::read_to_string(&journal).unwrap();
    assert_eq!(lines.lines().count(), 4 * 3 + 1);
    let kept: String = lines.split_inclusive('\n').take(6).collect();
    std::fs::write(
        &journal,
        format!("{kept}{}", &lines[kept.len()..kept.len() + 30]),
    )
    .unwrap();
    std::fs::remove_file(cut.join("evaluation.json")).unwrap();

    let refused = fail(&mut pictures.evaluate(&cut, &attacks));
    assert!(
        refused.contains("--resume") && refused.contains("--overwrite"),
        "{refused}"
    );
    let other = ["--attacks", "noise,pgd:4/255", "--limit", "5", "--resume"];
    let refused = fail(&mut pictures.evaluate(&cut, &other));
    assert!(refused.contains("cannot be resumed"), "{refused}");
    let resume = [&attacks[..], &["--resume"]].concat();
    succeed(&mut pictures.evaluate(&cut, &resume));
    assert_eq!(timeless(&cut), timeless(&whole));
    assert!(
        std::fs::read_to_string(&journal)
            .unwrap()
            .starts_with(&kept)
    );

    // Another command does not go on with it either, and replaces it when told to.
    let out = text(&cut);
    let photo = pictures.path("photos/a/0.png");
    let purify = |more: &str| {
        let mut command = Command::cargo_bin("backstitch").unwrap();
        command.args(["purify", text(&photo), "-o", out, more]);
        command.arg("--classifier").arg(model());
        command.args(["--preset", "cifar", "--iterations", "50", "--restarts", "1"]);
        command
    };
    assert!(fail(&mut purify("--resume")).contains("cannot be resumed"));
    succeed(&mut purify("--overwrite"));
    assert!(!journal.exists() && !cut.join("evaluation.html").exists());
}

#[test]
fn pictures_that_others_attacked_are_judged_as_our_own() {
    let pictures = Pictures::new();
    let (made, given) = (pictures.path("made"), pictures.path("given"));
    let attacks = [
        "--attacks",
        "fgsm:8/255,cw",
        "--save-attacked",
        "--limit",
        "3",
    ];
    succeed(&mut pictures.evaluate(&made, &attacks));
    let made_by_us = timeless(&made);
    let manifest = made.join("attacked.jsonl");
    let mut alone = Command::cargo_bin("backstitch").unwrap();
    alone.arg("evaluate").arg("--attacked").arg(&manifest);
    alone.arg("--classifier").arg(model()).arg("-o").arg(&given);
    alone.args([
        "--preset",
        "cifar",
        "--iterations",
        "100",
        "--restarts",
        "2",
    ]);
    succeed(&mut alone);
    let evaluation = timeless(&given);
    assert_eq!(evaluation["pictures"]["counted"], 2);
    assert_eq!(evaluation["pictures"]["without_clean"], 0);
    for attack in ["fgsm-linf-8", "cw-l2"] {
        for defense in ["none", "jpeg-75", "dipdefend", "backstitch"] {
            let ours = cell(&made_by_us, attack, defense);
            let theirs = cell(&evaluation, &format!("given:{attack}"), defense);
            assert_eq!(theirs["threat"], "unknown");
            for field in ["right", "right_of_fooled", "psnr", "ssim"] {
                assert_eq!(ours[field], theirs[field], "{attack} {defense} {field}");
            }
        }
    }
    // Beside a data set they belong to its pictures.
    let both = pictures.path("both");
    let beside = [
        "--attacks",
        "noise",
        "--attacked",
        text(&manifest),
        "--limit",
        "3",
    ];
    succeed(&mut pictures.evaluate(&both, &beside));
    let evaluation = timeless(&both);
    assert_eq!(evaluation["pictures"]["counted"], 2);
    let theirs = cell(&evaluation, "given:cw-l2", "backstitch");
    assert_eq!(
        theirs["right"],
        cell(&made_by_us, "cw-l2", "backstitch")["right"]
    );
}

#[test]
fn attacked_pictures_alone_count_on_trust() {
    let pictures = Pictures::new();
    let out = pictures.path("out");
    let values: Vec<f32> = [0, 1]
        .into_iter()
        .flat_map(|label| {
            let picture = smooth(label, 0.5);
            let at = move |i: usize| picture.as_raw()[3 * (i % 1024) + i / 1024];
            (0..3072).map(move |i| f32::from(at(i)) / 255.0)
        })
        .collect();
    let archive = common::npz(&[
        ("adv", common::npy_f32(&[2, 3, 32, 32], &values)),
        ("labels", common::npy_i64(&[0, 1])),
    ]);
    let path = common::write(pictures.folder.path(), "theirs.npz", archive);
    let mut command = Command::cargo_bin("backstitch").unwrap();
    command.arg("evaluate").arg("--attacked").arg(&path);
    command.arg("--classifier").arg(model()).arg("-o").arg(&out);
    command.args(["--preset", "cifar", "--iterations", "50", "--restarts", "1"]);
    succeed(&mut command);
    let evaluation = json(&out.join("evaluation.json"));
    assert_eq!(evaluation["pictures"]["without_clean"], 2);
    let none = cell(&evaluation, "given:theirs", "none");
    assert_eq!(
        (&none["right"]["count"], &none["psnr"]),
        (&2.into(), &Value::Null)
    );
    let page = std::fs::read_to_string(out.join("evaluation.md")).unwrap();
    assert!(page.contains("is taken on trust"), "{page}");
}

#[cfg(unix)]
#[test]
fn an_interrupted_evaluation_is_kept() {
    use std::os::unix::process::ExitStatusExt;
    use std::time::{Duration, Instant};

    let pictures = Pictures::new();
    let out = pictures.path("out");
    // Long enough that the signal comes in the middle: the second attack asks for hours.
    let options = [
        "--attacks",
        "fgsm,square@queries",
        "--defended-queries",
        "100000000",
    ];
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_backstitch"));
    command.args(pictures.evaluate(&out, &options).get_args());
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let cells = || std::fs::read_to_string(out.join("cells.jsonl")).unwrap_or_default();
    let started = Instant::now();
    // The excluded picture, and clean and FGSM of the others.
    while cells().lines().count() < 1 + 6 + 6 {
        assert!(started.elapsed() < Duration::from_secs(300));
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(50));
    }
    common::signal(&child, "INT");
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(130), None));
    let evaluation = json(&out.join("evaluation.json"));
    assert_eq!(evaluation["state"], "interrupted");
    assert_eq!(json(&out.join("run.json"))["state"], "interrupted");
    assert_eq!(cell(&evaluation, "fgsm-linf-4", "none")["right"]["of"], 6);
    assert_eq!(evaluation["attacks"][2]["pictures"], 0);
}

#[test]
fn what_cannot_be_evaluated_is_refused_in_one_line() {
    let pictures = Pictures::new();
    let out = pictures.path("out");
    let evaluate = |data: &Path, classes: Option<&Path>| {
        let mut command = Command::cargo_bin("backstitch").unwrap();
        command.arg("evaluate").arg(data).arg("-o").arg(&out);
        command.arg("--classifier").arg(model());
        if let Some(classes) = classes {
            command.arg("--classes").arg(classes);
        }
        fail(&mut command)
    };
    let photos = pictures.path("photos");
    let said = evaluate(&photos, None);
    assert!(said.contains("no picture has a true label"), "{said}");
    let many = pictures.path("many.txt");
    std::fs::write(&many, "x\ny\nz\nw\nv\nc\n").unwrap();
    let said = evaluate(&photos, Some(&many));
    assert!(
        said.contains("label 5") && said.contains("4 classes"),
        "{said}"
    );
    let empty = pictures.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let said = evaluate(&empty, None);
    assert!(said.contains("empty"), "{said}");
    assert!(
        !out.exists(),
        "nothing is written for input that is refused"
    );
    let others = pictures.path("others.txt");
    std::fs::write(&others, "d\nc\na\nb\n").unwrap();
    let said = evaluate(&photos, Some(&others));
    assert!(said.contains("none of 7 pictures right"), "{said}");
    std::fs::remove_dir_all(&out).unwrap();
    let twice = ["--attacks", "pgd,pgd:4/255"];
    let said = fail(&mut pictures.evaluate(&out, &twice));
    assert!(said.contains("pgd-linf-4 is asked for twice"), "{said}");
}

#[test]
fn a_bad_picture_is_a_line_and_not_the_end() {
    let pictures = Pictures::new();
    let out = pictures.path("out");
    common::write(
        &pictures.path("photos"),
        "b/torn.png",
        common::truncated_png(),
    );
    let attacks = ["--attacks", "noise"];
    let said = fail(&mut pictures.evaluate(&out, &attacks));
    assert!(said.contains("1 of 8 pictures failed"), "{said}");
    let evaluation = json(&out.join("evaluation.json"));
    assert_eq!(evaluation["pictures"]["failed"], 1);
    assert_eq!(evaluation["pictures"]["counted"], 6);
    let photo = pictures.path("photos/b/torn.png");
    smooth(1, 0.3).save(photo).unwrap();
    let resume = [&attacks[..], &["--resume"]].concat();
    succeed(&mut pictures.evaluate(&out, &resume));
    let evaluation = json(&out.join("evaluation.json"));
    assert_eq!(evaluation["pictures"]["counted"], 7);
}

#[test]
fn the_baselines_can_be_chosen() {
    let pictures = Pictures::new();
    let out = pictures.path("out");
    let some = ["--attacks", "noise", "--limit", "1", "--baselines"];
    let chosen = [&some[..], &["bits-1,none,bits-1"]].concat();
    succeed(&mut pictures.evaluate(&out, &chosen));
    let evaluation = json(&out.join("evaluation.json"));
    let rows = evaluation["defenses"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["none", "bits-1", "dipdefend"]);

    let unknown = [&some[..], &["bits-9"]].concat();
    let said = pictures.evaluate(&out, &unknown).output().unwrap();
    assert_eq!(said.status.code(), Some(2));
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("bits must be from 1 to 8, not 9"), "{said}");
}

#[test]
fn a_limit_leaves_room_for_pictures_that_others_attacked() {
    let pictures = Pictures::new();
    let shape = [3, 3, 32, 32];
    let values = vec![0.5; shape.iter().product()];
    for name in ["one.npz", "two.npz"] {
        let arrays = [
            ("adv", common::npy_f32(&shape, &values)),
            ("labels", common::npy_i64(&[0, 1, 2])),
        ];
        common::write(pictures.folder.path(), name, common::npz(&arrays));
    }
    let out = pictures.path("out");
    let (one, two) = (pictures.path("one.npz"), pictures.path("two.npz"));
    let more = [
        "--limit",
        "2",
        "--attacks",
        "noise",
        "--baselines",
        "jpeg-75",
    ];
    let sets = ["--attacked", text(&one), "--attacked", text(&two)];
    succeed(&mut pictures.evaluate(&out, &[&more[..], &sets].concat()));
    assert_eq!(
        images(&out),
        [
            "a/0.png",
            "a/1.png",
            "one.npz#0",
            "one.npz#1",
            "two.npz#0",
            "two.npz#1"
        ]
    );
}

#[test]
fn kept_pictures_never_replace_those_that_no_run_wrote() {
    let pictures = Pictures::new();
    let out = pictures.path("out");
    let more = "--attacks noise --baselines jpeg-75 --limit 2 --save-attacked";
    let more: Vec<&str> = more.split(' ').collect();
    let mine = common::write(&out, "attacked/clean/a/0.png", b"mine");
    for existing in [None, Some("--overwrite"), Some("--resume")] {
        let more: Vec<&str> = more.iter().copied().chain(existing).collect();
        let said = fail(&mut pictures.evaluate(&out, &more));
        assert!(said.contains("attacked/clean/a/0.png"), "{said}");
        assert_eq!(std::fs::read(&mine).unwrap(), b"mine");
        assert!(!out.join("run.json").exists());
    }
    std::fs::remove_file(&mine).unwrap();
    let other = common::write(&out, "attacked/clean/a/mine.png", b"mine");
    succeed(&mut pictures.evaluate(&out, &more));
    succeed(&mut pictures.evaluate(&out, &[&more[..], &["--overwrite"]].concat()));
    assert_eq!(std::fs::read(&other).unwrap(), b"mine");
    assert!(mine.exists());
}

#[test]
fn a_list_names_the_pictures_of_an_evaluation() {
    let pictures = Pictures::new();
    let list = common::write(
        pictures.folder.path(),
        "list.txt",
        "photos/c/1.png\nphotos/a/0.png\n",
    );
    let out = pictures.path("out");
    let mut command = Command::cargo_bin("backstitch").unwrap();
    command.arg("evaluate").arg("--list").arg(&list);
    command.arg("--classes").arg(pictures.path("classes.txt"));
    command.arg("--classifier").arg(model()).arg("-o").arg(&out);
    let more = "--preset cifar --iterations 10 --restarts 1 --attacks noise --baselines jpeg-75";
    succeed(command.args(more.split(' ')));
    assert_eq!(images(&out), ["photos/a/0.png", "photos/c/1.png"]);
}

/// The pictures that an evaluation has cells of, in the order of their names.
fn images(out: &Path) -> Vec<String> {
    let cells = std::fs::read_to_string(out.join("cells.jsonl")).unwrap();
    let images: std::collections::BTreeSet<String> = cells
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|cell| cell["image"].as_str().unwrap().to_owned())
        .collect();
    images.into_iter().collect()
}

#[test]
fn the_quick_suite_counts_given_pictures_apart_from_clean_ones() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let case = shared.join("cases/given-and-clean");
    let model = shared.join("models/cifar-resnet20.onnx");
    if !case.is_dir() || !model.is_file() {
        eprintln!("skipped: no ../shared/cases");
        return;
    }
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let mut command = Command::cargo_bin("backstitch").unwrap();
    command.arg("evaluate").arg(case.join("clean48.npz"));
    command.arg("--attacked").arg(case.join("att48.npz"));
    command.arg("--classifier").arg(model).arg("-o").arg(&out);
    let more = "--preset cifar --iterations 5 --restarts 1 --attacks noise --baselines jpeg-75";
    succeed(command.args(more.split(' ')));
    let seen = images(&out);
    let of = |name: &str| seen.iter().filter(|id| id.starts_with(name)).count();
    assert_eq!((of("clean48.npz#"), of("att48.npz#")), (32, 32));
    let evaluation = json(&out.join("evaluation.json"));
    for attack in ["noise-linf-4", "given:att48"] {
        let right = &cell(&evaluation, attack, "none")["right"];
        assert_eq!(right["of"], 32, "{attack}");
    }
}
