//! Runs over large datasets: shards and their merging, streams, tar shards, what runs tell of
//! themselves, and lists of a million.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use backstitch::picture::Picture;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{self, fixture, run_json};

/// One picture at a time, a few milliseconds each.
const QUICK: [&str; 14] = [
    "--preset",
    "cifar",
    "--iterations",
    "8",
    "--probe-interval",
    "4",
    "--restarts",
    "1",
    "--capacity",
    "1",
    "--threads",
    "1",
    "--device",
    "cpu",
];

fn backstitch(command: &str) -> Command {
    let mut backstitch = Command::new(env!("CARGO_BIN_EXE_backstitch"));
    backstitch.arg(command);
    backstitch
}

/// `purify INPUT -o OUT` of the toy classifier.
fn purify(input: &Path, out: &Path) -> Command {
    let mut command = backstitch("purify");
    command.arg(input).arg("-o").arg(out);
    command.arg("--classifier").arg(fixture("toy.onnx"));
    command.args(QUICK);
    command
}

/// Runs a command that must end with `code`; gives stdout and stderr.
fn ends(code: i32, command: &mut Command) -> (String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{command:?}: {stderr}");
    (String::from_utf8(stdout).unwrap(), stderr)
}

/// The one line of a command that must be refused.
fn refusal(command: &mut Command) -> String {
    let (_, said) = ends(1, command);
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

/// A PNG of 32×32 pixels.
fn png(phase: u32) -> Vec<u8> {
    common::encode(&common::waves(phase), image::ImageFormat::Png)
}

/// A folder of `n` pictures in two folders.
fn pictures(folder: &Path, n: u32) -> PathBuf {
    for i in 0..n {
        common::write(folder, &format!("in/{}/{i:02}.png", i % 2), png(i));
    }
    folder.join("in")
}

/// The lines of `results.jsonl`, without times, in order.
fn results(out: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(out.join("results.jsonl")).unwrap();
    let records = text.lines().map(|line| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("seconds");
        record
    });
    let records: Vec<Value> = records.collect();
    let names: BTreeSet<&str> = records
        .iter()
        .map(|r| r["image"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), records.len(), "a picture has two lines");
    records
}

fn by_image(out: &Path) -> BTreeMap<String, Value> {
    let name = |record: &Value| record["image"].as_str().unwrap().to_owned();
    results(out).into_iter().map(|r| (name(&r), r)).collect()
}

/// Output files and their bytes.
fn files(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let walk = walkdir::WalkDir::new(out.join("images")).into_iter();
    walk.map(|entry| entry.unwrap().into_path())
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.strip_prefix(out).unwrap().to_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect()
}

/// The members of a tar file.
fn members(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
    let mut members = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        assert_eq!(members.insert(name, bytes), None);
    }
    members
}

fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        // As an attacker would write it: names are not checked.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append(&header, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn shards_of_processes_merge_to_one_run() {
    let folder = TempDir::new().unwrap();
    let root = pictures(folder.path(), 14);
    common::write(&root, "1/torn.png", common::truncated_png());
    let at = |name: &str| folder.path().join(name);
    let whole = at("whole");
    ends(1, &mut purify(&root, &whole));
    let shard = |i: usize| at(&format!("shard-{i}"));
    let mut started: Vec<Child> = (0..3)
        .map(|i| {
            let mut command = purify(&root, &shard(i));
            command.arg("--shard").arg(format!("{i}/3"));
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    let codes: Vec<_> = started
        .iter_mut()
        .map(|c| c.wait().unwrap().code())
        .collect();
    assert_eq!(
        codes.iter().filter(|code| **code == Some(1)).count(),
        1,
        "the torn picture's"
    );
    let sizes: Vec<usize> = (0..3).map(|i| results(&shard(i)).len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 15);
    assert!(sizes.iter().all(|size| *size < 15), "{sizes:?}");

    let merge = |runs: &[usize], out: &str| {
        let mut command = backstitch("merge");
        command.args(runs.iter().map(|&i| shard(i)));
        command.arg("-o").arg(at(out));
        command
    };
    // What a killed merge left is in nobody's way.
    common::write(
        folder.path(),
        ".backstitch-merge-merged/images/x.png",
        "torn",
    );
    let (said, _) = ends(0, &mut merge(&[2, 0, 1], "merged"));
    assert_eq!(said, "15 pictures of 3 runs, 1 of them failed\n");
    let merged = at("merged");
    assert_eq!(by_image(&merged), by_image(&whole));
    let names: Vec<Value> = results(&merged)
        .iter()
        .map(|r| r["image"].clone())
        .collect();
    assert!(names.is_sorted_by_key(|name| name.as_str().unwrap().to_owned()));
    assert_eq!(files(&merged), files(&whole));
    let (one, all) = (run_json(&whole), run_json(&merged));
    for key in [
        "command",
        "configuration",
        "verdicts",
        "output",
        "backstitch",
    ] {
        assert_eq!(one[key], all[key], "{key}");
    }
    for (key, n) in [("total", 15), ("done", 14), ("failed", 1)] {
        assert_eq!(all["images"][key], n, "{key}");
    }
    assert_eq!(all["state"], "done");
    assert_eq!(all["merged"].as_array().unwrap().len(), 3);
    let report = std::fs::read_to_string(merged.join("report.html")).unwrap();
    assert_eq!(report.matches("<script>add(").count(), 15);
    // It is a run like any other.
    ends(1, purify(&root, &merged).arg("--resume"));
    assert_eq!(run_json(&merged)["images"]["resumed"], 14);

    let said = refusal(&mut merge(&[0, 1, 2], "merged"));
    assert!(said.contains("is there already"), "{said}");
    let said = refusal(&mut merge(&[0, 2], "two"));
    assert!(said.contains("of 3 shards these are missing: 1"), "{said}");
    assert!(!at("two").exists());
    ends(0, merge(&[0, 2], "two").arg("--partial"));
    assert_eq!(results(&at("two")).len(), sizes[0] + sizes[2]);
    assert_eq!(run_json(&at("two"))["state"], "interrupted");
    // A partial merge is completed by resuming it without shards.
    ends(1, purify(&root, &at("two")).arg("--resume"));
    assert_eq!(by_image(&at("two")), by_image(&whole));

    let said = refusal(merge(&[0, 1], "x").arg(at("whole")));
    assert!(said.contains("is no shard"), "{said}");
    let said = refusal(&mut merge(&[0, 1, 1, 2], "x"));
    // Its lock is held by the same merge already, or it is seen to be the same shard.
    assert!(said.contains("shard-1"), "{said}");
    let said = refusal(purify(&root, &shard(1)).args(["--resume", "--shard", "0/3"]));
    assert!(said.contains("index was 1 and is 0"), "{said}");

    let path = shard(2).join("run.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (old, new, message) in [
        (
            "\"state\": \"done\"",
            "\"state\": \"running\"",
            "is not finished",
        ),
        (
            "\"command\": \"purify\"",
            "\"command\": \"attack\"",
            "command was",
        ),
        (
            "\"iterations\": 8",
            "\"iterations\": 9",
            "iterations was 8 and is 9",
        ),
    ] {
        assert!(text.contains(old), "{old}");
        std::fs::write(&path, text.replace(old, new)).unwrap();
        let said = refusal(&mut merge(&[0, 1, 2], "x"));
        assert!(said.contains(message), "{said}");
    }
    std::fs::write(&path, text).unwrap();

    // A picture that another shard says something else of.
    let stolen = results(&shard(0))
        .into_iter()
        .find(|r| r["error"].is_null())
        .unwrap();
    let changed = stolen.to_string().replace("\"verdict\":", "\"was\":");
    let journal = shard(1).join("results.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap() + &changed + "\n";
    std::fs::write(&journal, text).unwrap();
    let said = refusal(&mut merge(&[0, 1, 2], "x"));
    let image = stolen["image"].as_str().unwrap();
    assert!(
        said.contains(&format!("differs about {image} from")),
        "{said}"
    );
    assert!(!at("x").exists());
}

#[test]
fn commands_on_shards_see_each_picture_once() {
    let folder = TempDir::new().unwrap();
    let root = pictures(folder.path(), 9);
    let classify = |more: &[&str]| {
        let mut command = backstitch("classify");
        command.arg(&root).arg("--json").args(more);
        command.arg("--classifier").arg(fixture("toy.onnx"));
        let (said, _) = ends(0, &mut command);
        let lines: BTreeSet<String> = said.lines().map(str::to_owned).collect();
        lines
    };
    // More shards than pictures: some are empty.
    let mut joined = BTreeSet::new();
    for i in 0..16 {
        for line in classify(&["--shard", &format!("{i}/16")]) {
            assert!(joined.insert(line));
        }
    }
    assert_eq!(joined, classify(&[]));
    let outs: Vec<PathBuf> = (0..2)
        .map(|i| {
            let out = folder.path().join(format!("attack-{i}"));
            let mut command = backstitch("attack");
            command.arg(&root).arg("--shard").arg(format!("{i}/2"));
            command.arg("--classifier").arg(fixture("toy.onnx"));
            command.args(["--method", "fgsm", "-o"]).arg(&out);
            ends(0, &mut command);
            out
        })
        .collect();
    let merged = folder.path().join("attacked");
    ends(0, backstitch("merge").args(&outs).arg("-o").arg(&merged));
    assert_eq!(results(&merged).len(), 9);
    assert!(run_json(&merged)["fooled"].is_u64());
}

#[test]
fn a_stream_is_worked_on_as_it_comes() {
    let folder = TempDir::new().unwrap();
    let root = pictures(folder.path(), 4);
    let out = folder.path().join("out");
    let entry = |i: u32| format!("{{\"file\":\"in/{}/{i:02}.png\",\"label\":{i}}}\n", i % 2);
    let mut command = purify(Path::new("-"), &out);
    command.args(["--jsonl", "-"]).current_dir(folder.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&said.next().unwrap().unwrap()).unwrap() };
    for i in 0..2 {
        // Each result comes before the next line of the input is there.
        stdin.write_all(entry(i).as_bytes()).unwrap();
        let record = next();
        assert_eq!(record["image"], format!("in/{}/{i:02}.png", i % 2));
        assert_eq!(record["label"], i);
    }
    stdin.write_all(b"{\"label\": 1}\n").unwrap();
    let record = next();
    assert_eq!(record["image"], "line 3");
    assert!(
        record["error"]
            .as_str()
            .unwrap()
            .contains("has no field file")
    );
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(said.next().is_none(), "nothing but results");
    assert_eq!(results(&out).len(), 3);
    assert_eq!(run_json(&out)["images"]["total"], 3);

    // The whole list, in another order: what is finished is not made again.
    let list: String = (0..4).rev().map(entry).collect();
    let list = common::write(folder.path(), "list", list);
    let again = || {
        let mut command = purify(Path::new("-"), &out);
        command.arg("--resume").current_dir(folder.path());
        command.stdin(std::fs::File::open(&list).unwrap());
        command
    };
    ends(0, &mut again());
    let run = run_json(&out);
    assert_eq!(
        (&run["images"]["resumed"], &run["images"]["done"]),
        (&2.into(), &2.into())
    );
    // As from the folder itself.
    let listed = folder.path().join("listed");
    ends(0, &mut purify(&root, &listed));
    for (image, record) in by_image(&listed) {
        let streamed = &by_image(&out)[&format!("in/{image}")];
        assert_eq!(streamed["verdict"], record["verdict"]);
        let bytes = |out: &Path, record: &Value| {
            std::fs::read(out.join(record["output"].as_str().unwrap())).unwrap()
        };
        assert_eq!(bytes(&out, streamed), bytes(&listed, &record));
    }
    let said = refusal(purify(Path::new("-"), &out).arg("x.png"));
    assert!(said.contains("must be the only INPUT"), "{said}");
}

#[cfg(unix)]
#[test]
fn a_stream_that_waits_is_interrupted() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let mut command = purify(Path::new("-"), &out);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    // Kept open: no line ever comes.
    let stdin = child.stdin.take().unwrap();
    while !out.join("run.json").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    common::signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(stdin);
    assert_eq!(run_json(&out)["state"], "interrupted");
}

#[test]
fn tar_shards_come_in_and_go_out() {
    let folder = TempDir::new().unwrap();
    let root = pictures(folder.path(), 5);
    let png = |i: u32| std::fs::read(root.join(format!("{}/{i:02}.png", i % 2))).unwrap();
    let all: Vec<Vec<u8>> = (0..5).map(png).collect();
    let shard = tar_of(&[
        ("0/00.png", &all[0]),
        ("0/00.cls", b"3"),
        ("1/01.json", br#"{"label": 2, "source": "web"}"#),
        ("1/01.png", &all[1]),
        ("0/02.png", &all[2]),
        ("../1/03.png", &all[3]),
        ("/4.5.png", &all[4]),
        ("note.txt", b"no picture"),
    ]);
    let shard = common::write(folder.path(), "shard.tar", shard);
    let out = folder.path().join("out");
    let mut command = purify(&shard, &out);
    command.args(["--tar-out", "--tar-pictures", "2"]);
    ends(0, &mut command);
    let found = by_image(&out);
    let listed = folder.path().join("listed");
    ends(0, &mut purify(&root, &listed));
    let plain = files(&listed);
    let tars: BTreeMap<PathBuf, Vec<u8>> = files(&out);
    let names: Vec<&str> = tars.keys().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "images/000000.tar",
            "images/000001.tar",
            "images/000002.tar"
        ]
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        4,
        "nothing is unpacked"
    );
    for (id, member, same, label) in [
        ("0/00.png", "shard.tar/0/00.png", "0/00.png", Some(3)),
        ("1/01.png", "shard.tar/1/01.png", "1/01.png", Some(2)),
        ("0/02.png", "shard.tar/0/02.png", "0/02.png", None),
        ("../1/03.png", "shard.tar/1/03.png", "1/03.png", None),
        ("/4.5.png", "shard.tar/4_5.png", "0/04.png", None),
    ] {
        let record = &found[&format!("shard.tar/{id}")];
        assert_eq!(record["label"].as_u64(), label);
        let output = record["output"].as_str().unwrap();
        let (tar, found) = output.split_once(".tar/").unwrap();
        assert_eq!(found, member);
        let members = members(&out.join(format!("{tar}.tar")));
        assert_eq!(members[member], plain[&Path::new("images").join(same)]);
        let cls = members.get(&member.replace(".png", ".cls"));
        assert_eq!(
            cls.map(|text| text.as_slice()),
            label.map(|l| l.to_string().into_bytes()).as_deref()
        );
    }
    assert_eq!(found["shard.tar/1/01.png"]["manifest"]["source"], "web");

    // What was written can be read, with its labels.
    let mut command = backstitch("classify");
    command
        .args(tars.keys().map(|tar| out.join(tar)))
        .arg("--json");
    command.arg("--classifier").arg(fixture("toy.onnx"));
    let (said, _) = ends(0, &mut command);
    let labels: BTreeMap<String, Option<u64>> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .map(|line: Value| {
            let image = line["image"].as_str().unwrap();
            let (_, member) = image.split_once(".tar/").unwrap();
            (member.to_owned(), line["label"].as_u64())
        })
        .collect();
    assert_eq!(labels.len(), 5);
    assert_eq!(labels["shard.tar/0/00.png"], Some(3));
    assert_eq!(labels["shard.tar/1/01.png"], Some(2));
    assert_eq!(labels["shard.tar/0/02.png"], None);

    // As if the run had been killed before its second shard was whole.
    std::fs::remove_file(out.join("images/000001.tar")).unwrap();
    common::write(&out, "images/.backstitch-x", "half a shard");
    let mut command = purify(&shard, &out);
    ends(
        0,
        command.args(["--tar-out", "--tar-pictures", "2", "--resume"]),
    );
    assert_eq!(run_json(&out)["images"]["resumed"], 3);
    assert_eq!(results(&out).len(), 5);
    let mut kept: BTreeSet<String> = BTreeSet::new();
    for tar in files(&out).keys() {
        for member in members(&out.join(tar)).into_keys() {
            assert!(kept.insert(member), "a picture is in two shards");
        }
    }
    assert_eq!(kept.len(), 7);
    assert!(
        files(&out)
            .keys()
            .all(|name| !name.ends_with(".backstitch-x"))
    );
    let said = refusal(purify(&shard, &out).arg("--resume"));
    assert!(said.contains("tar was true and is false"), "{said}");
    ends(0, purify(&shard, &out).arg("--overwrite"));
    assert!(
        files(&out)
            .keys()
            .all(|name| name.extension().unwrap() == "png")
    );
}

#[test]
fn damaged_tar_shards_are_refused_in_one_line() {
    let folder = TempDir::new().unwrap();
    let whole = tar_of(&[("a.png", &png(1)), ("b.png", &png(2))]);
    let refused = |bytes: &[u8]| {
        let path = common::write(folder.path(), "x.tar", bytes);
        refusal(&mut purify(&path, &folder.path().join("out")))
    };
    assert!(refused(&whole[..600]).contains("truncated tar archive"));
    assert!(refused(b"no archive").contains("x.tar"));
    assert!(refused(&tar_of(&[("a.txt", b"x")])).contains("holds no pictures"));
    // A label that is none is its picture's error.
    let one_fails = |bytes: &[u8], why: &str| {
        let path = common::write(folder.path(), "x.tar", bytes);
        let out = tempfile::tempdir().unwrap();
        let output = purify(&path, &out.path().join("out")).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(why) && said.contains("1 of 2 pictures failed"),
            "{said}"
        );
    };
    let label = [
        ("a.png", &png(1)[..]),
        ("a.cls", b"cat"),
        ("b.png", &png(2)),
    ];
    one_fails(&tar_of(&label), "a.cls: has label cat");
    let json = [
        ("a.png", &png(1)[..]),
        ("a.json", b"[]"),
        ("b.png", &png(2)),
    ];
    one_fails(&tar_of(&json), "a.json: is no JSON object");
    // A member that claims to be huge.
    let mut huge = whole.clone();
    huge[124..136].copy_from_slice(b"77777777777\0");
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes().copy_from_slice(&huge[..512]);
    header.set_cksum();
    huge[..512].copy_from_slice(header.as_bytes());
    assert!(refused(&huge).contains("truncated tar archive"));
    // What is whole of a shard that was cut short is kept: in a picture, in the padding, before the end.
    let second = 512 + png(1).len().next_multiple_of(512);
    let end = second + 512 + png(2).len().next_multiple_of(512);
    for (cut, name, others) in [
        (second + 600, "b.png", 1),
        (end - 1, "end", 2),
        (end, "end", 2),
    ] {
        let path = common::write(folder.path(), "cut.tar", &whole[..cut]);
        let out = folder.path().join(format!("cut-{cut}"));
        ends(1, &mut purify(&path, &out));
        let mut all = by_image(&out);
        let last = all.remove(&format!("cut.tar/{name}")).unwrap();
        assert!(
            last["error"].as_str().unwrap().contains("cut short"),
            "{last}"
        );
        assert_eq!(all.len(), others);
        assert!(all.values().all(|record| record["error"].is_null()));
    }
    // A damaged picture in a whole shard fails alone.
    let torn = tar_of(&[("a.png", &png(1)), ("b.png", &common::truncated_png())]);
    let path = common::write(folder.path(), "torn.tar", torn);
    let out = folder.path().join("torn");
    ends(1, &mut purify(&path, &out));
    assert!(by_image(&out)["torn.tar/b.png"]["error"].is_string());
    assert!(by_image(&out)["torn.tar/a.png"]["error"].is_null());
}

/// The names, true labels and errors of the pictures of a command on a tar, of a classifier of four classes.
fn classified(path: &Path, more: &[&str]) -> (i32, Vec<(String, Value, bool)>) {
    let mut command = backstitch("classify");
    command.arg(path).args(["--jsonl", "-"]).args(more);
    let output = command
        .arg("--classifier")
        .arg(fixture("toy.onnx"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let lines = said.lines().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap();
        let image = record["image"].as_str().unwrap().to_owned();
        (image, record["label"].clone(), record["error"].is_string())
    });
    (output.status.code().unwrap(), lines.collect())
}

#[test]
fn tars_that_were_repeated_or_cut_short_say_so() {
    let line = |image: &str, label: Value, failed| (image.to_owned(), label, failed);
    let (code, lines) = classified(&fixture("cases/tar/dup.tar"), &[]);
    assert_eq!(code, 1);
    assert!(
        lines.len() == 2 && lines.iter().all(|line| line.2),
        "{lines:?}"
    );
    let sized = ["--size", "32x32"];
    let (code, lines) = classified(&fixture("cases/tar/trunc.tar"), &sized);
    let want = [
        line("trunc.tar/a.png", 3.into(), false),
        line("trunc.tar/end", Value::Null, true),
    ];
    assert_eq!((code, &lines[..]), (1, &want[..]));

    // Names in capitals, class folders, and a name that is repeated without any label.
    let folder = TempDir::new().unwrap();
    let members: [(&str, &[u8]); 7] = [
        ("A.PNG", &png(1)),
        ("A.CLS", b"3"),
        ("dog/b.png", &png(2)),
        ("cat/deep/c.png", &png(3)),
        ("cat/c.cls", b"1"),
        ("d.png", &png(4)),
        ("d.png", &png(5)),
    ];
    let path = common::write(folder.path(), "x.tar", tar_of(&members));
    let classes = common::write(folder.path(), "classes.txt", "cat\ndog\n");
    let (code, lines) = classified(&path, &["--classes", classes.to_str().unwrap()]);
    let want = [
        line("x.tar/A.PNG", 3.into(), false),
        line("x.tar/dog/b.png", 1.into(), false),
        line("x.tar/cat/deep/c.png", 0.into(), false),
        line("x.tar/d.png", Value::Null, false),
        line("x.tar/d~2.png", Value::Null, false),
    ];
    assert_eq!((code, &lines[..]), (0, &want[..]));
}

#[test]
fn files_of_a_folder_that_are_skipped_are_counted_once() {
    let folder = TempDir::new().unwrap();
    let root = pictures(folder.path(), 2);
    for name in ["x.HEIC", "0/y.heic", "1/z.ppm", "notes"] {
        common::write(&root, name, "");
    }
    let out = folder.path().join("out");
    let (_, said) = ends(0, &mut purify(&root, &out));
    let line = "4 files are skipped, which are no pictures that are read: 2 .heic, 1 .ppm, 1 without extension";
    assert_eq!(said.matches(line).count(), 1, "{said}");
    assert_eq!(run_json(&out)["skipped"][".heic"], 2);
    assert_eq!(run_json(&out)["skipped"][".ppm"], 1);
}

#[test]
fn a_run_tells_machines_how_far_it_is() {
    let folder = TempDir::new().unwrap();
    let root = pictures(folder.path(), 3);
    common::write(&root, "torn.png", common::truncated_png());
    let out = folder.path().join("out");
    let metrics = folder.path().join("backstitch.prom");
    let mut command = purify(&root, &out);
    command
        .args(["--log", "json", "--jsonl", "-", "--metrics"])
        .arg(&metrics);
    let (lines, said) = ends(1, &mut command);
    let journal = std::fs::read_to_string(out.join("results.jsonl")).unwrap();
    assert_eq!(lines, journal);
    let said: Vec<Value> = said
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert!(
        said.iter()
            .all(|line| line["time"].is_f64() && line["message"].is_string())
    );
    let errors: Vec<&Value> = said
        .iter()
        .filter(|line| line["level"] == "error")
        .collect();
    assert!(errors[0]["message"].as_str().unwrap().contains("torn.png"));
    assert!(
        errors[1]["message"]
            .as_str()
            .unwrap()
            .contains("1 of 4 pictures failed")
    );
    let last = said
        .iter()
        .rfind(|line| line["event"] == "progress")
        .unwrap();
    assert_eq!(
        (&last["images"]["done"], &last["images"]["failed"]),
        (&3.into(), &1.into())
    );

    let text = std::fs::read_to_string(metrics).unwrap();
    for sample in [
        "backstitch_pictures_total{command=\"purify\",end=\"done\"} 3",
        "backstitch_pictures_total{command=\"purify\",end=\"failed\"} 1",
        "backstitch_running{command=\"purify\"} 0",
    ] {
        assert!(text.lines().any(|line| line == sample), "{sample}\n{text}");
    }
    let run = run_json(&out);
    for phase in ["decode", "compute", "dip", "probe", "encode", "write"] {
        assert!(
            run["seconds_by_phase"][phase].as_f64().unwrap() > 0.0,
            "{phase}: {}",
            run["seconds_by_phase"]
        );
    }
    assert!(run["images_per_second"].as_f64().unwrap() > 0.0);
    #[cfg(target_os = "linux")]
    assert!(run["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
}

#[test]
fn classifying_tells_machines_the_same() {
    let folder = TempDir::new().unwrap();
    let root = pictures(folder.path(), 3);
    common::write(&root, "torn.png", common::truncated_png());
    let (lines, metrics) = (
        folder.path().join("lines.jsonl"),
        folder.path().join("backstitch.prom"),
    );
    let classify = |jsonl: &Path| {
        let mut command = backstitch("classify");
        command.arg(&root).arg("--classifier");
        command.arg(fixture("toy.onnx")).arg("--jsonl").arg(jsonl);
        command
    };
    let (said, _) = ends(1, classify(&lines).arg("--metrics").arg(&metrics));
    assert_eq!(said.lines().count(), 3, "{said}");
    let written = std::fs::read_to_string(&lines).unwrap();
    let found: Vec<Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(found.len(), 4);
    for (record, said) in found.iter().zip(said.lines()) {
        let class = record["top"][0]["label"].as_u64().unwrap();
        let image = record["image"].as_str().unwrap();
        assert!(said.starts_with(&format!("{image}: {class} ")), "{said}");
    }
    let last = &found[3];
    assert_eq!(last["image"], "torn.png");
    assert!(last["error"].is_string() && last["top"].is_null(), "{last}");
    let text = std::fs::read_to_string(&metrics).unwrap();
    for sample in [
        "backstitch_pictures_total{command=\"classify\",end=\"done\"} 3",
        "backstitch_pictures_total{command=\"classify\",end=\"failed\"} 1",
        "backstitch_running{command=\"classify\"} 0",
    ] {
        assert!(text.lines().any(|line| line == sample), "{sample}\n{text}");
    }
    let (said, _) = ends(1, &mut classify(Path::new("-")));
    assert_eq!(said, written, "nothing but results");
}

#[test]
fn changes_are_allowed_when_told_and_recorded() {
    let folder = TempDir::new().unwrap();
    let root = pictures(folder.path(), 2);
    common::write(&root, "torn.png", common::truncated_png());
    let out = folder.path().join("out");
    ends(1, &mut purify(&root, &out));
    let said = refusal(purify(&root, &out).args(["--resume", "--seed", "7"]));
    assert!(said.contains("seed was 0 and is 7"), "{said}");
    assert!(said.contains("--allow-changes"), "{said}");
    common::write(&root, "torn.png", png(9));
    ends(
        0,
        purify(&root, &out).args(["--resume", "--seed", "7", "--allow-changes"]),
    );
    assert_eq!(run_json(&out)["images"]["done"], 1);
    assert_eq!(
        run_json(&out)["changes"],
        serde_json::json!(["seed was 0 and is 7"])
    );
    // Later runs do not forget it.
    ends(0, purify(&root, &out).args(["--resume", "--seed", "7"]));
    assert_eq!(
        run_json(&out)["changes"],
        serde_json::json!(["seed was 0 and is 7"])
    );
    assert_eq!(results(&out).len(), 3);
    // Verdicts are of the whole folder, not of the last run alone.
    let verdicts = run_json(&out)["verdicts"].clone();
    let sum: u64 = verdicts
        .as_object()
        .unwrap()
        .values()
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(sum, 3);
}

#[cfg(target_os = "linux")]
#[test]
fn a_list_of_a_million_fits() {
    let folder = TempDir::new().unwrap();
    let picture = common::write(folder.path(), "train/n01440764/0.png", png(0));
    let list = folder.path().join("list.jsonl");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&list).unwrap());
    writeln!(file, "{{\"file\":\"{}\"}}", picture.display()).unwrap();
    for i in 1..1_000_000 {
        let class = i % 1000;
        writeln!(
            file,
            "{{\"file\":\"train/n{:08}/n{class:08}_{i:06}.JPEG\",\"label\":{class}}}",
            1_440_000 + class
        )
        .unwrap();
    }
    file.into_inner().unwrap();
    let out = folder.path().join("out");
    let mut command = purify(&list, &out);
    command
        .arg("--no-report")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let lines = || std::fs::read_to_string(out.join("results.jsonl")).unwrap_or_default();
    while lines().lines().count() < 20 {
        assert_eq!(child.try_wait().unwrap(), None);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    common::signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let run = run_json(&out);
    assert_eq!(run["images"]["total"], 1_000_000);
    let peak = run["peak_memory_bytes"].as_u64().unwrap();
    assert!(peak < 200_000_000, "{peak} bytes");
    assert_eq!(Picture::open(&picture).unwrap().shape.width, 32);
    assert_eq!(
        by_image(&out)[picture.to_str().unwrap()]["error"],
        Value::Null
    );
}
