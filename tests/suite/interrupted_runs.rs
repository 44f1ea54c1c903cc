//! Runs that signals, crashes, full disks and closed pipes end, and what is left of them.
#![cfg(unix)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use image::ImageFormat;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{self, fixture, results, run_json};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Pictures of a run; one is in flight at a time.
const PICTURES: usize = 6;

/// One picture at a time.
const OPTIONS: [&str; 10] = [
    "--preset",
    "cifar",
    "--restarts",
    "2",
    "--capacity",
    "2",
    "--threads",
    "1",
    "--save",
    "npy",
];

/// A picture at a time that takes longer than anybody waits.
const ENDLESS: [&str; 4] = [
    "--iterations",
    "4000000000",
    "--probe-interval",
    "1000000000",
];

/// The folder of pictures that runs have, and what an undisturbed run finds.
struct Undisturbed {
    folder: TempDir,
    iterations: u32,
    found: Vec<Found>,
}

/// A picture's result without its times, and its output file.
type Found = (String, String, Vec<u8>);

impl Undisturbed {
    /// Of pictures that take a few tenths of a second each.
    fn get() -> &'static Undisturbed {
        static ONCE: OnceLock<Undisturbed> = OnceLock::new();
        ONCE.get_or_init(|| Undisturbed::new(200))
    }

    fn new(iterations: u32) -> Undisturbed {
        let folder = TempDir::new().unwrap();
        for i in 0..PICTURES {
            let picture = common::encode(&common::waves(i as u32), ImageFormat::Png);
            common::write(folder.path(), &format!("pictures/{i}.png"), picture);
        }
        let mut undisturbed = Undisturbed {
            folder,
            iterations,
            found: vec![],
        };
        let out = undisturbed.folder.path().join("out");
        succeed(&mut undisturbed.purify(&out));
        undisturbed.found = found(&out);
        assert_eq!(undisturbed.found.len(), PICTURES);
        undisturbed
    }

    /// A run into `out` of the pictures.
    fn purify(&self, out: &Path) -> Command {
        let mut command = backstitch();
        let pictures = self.folder.path().join("pictures");
        command.arg("purify").arg(pictures).arg("-o").arg(out);
        command.arg("--classifier").arg(fixture("toy.onnx"));
        command.args(OPTIONS).arg("--iterations");
        command.arg(self.iterations.to_string());
        command
    }

    /// Goes on with the run in `out`, which must end as if nothing had happened.
    fn resume(&self, out: &Path) {
        let kept = results(out);
        let said = succeed(self.purify(out).arg("--resume"));
        assert!(!said.contains('\u{1b}') && !said.contains('\r'), "{said:?}");
        assert_eq!(found(out), self.found);
        let run = run_json(out);
        assert_eq!(run["state"], "done");
        assert_eq!(run["images"]["resumed"], kept.len());
        assert_eq!(run["images"]["done"], PICTURES - kept.len());
        // What was finished is not computed again.
        let now = results(out);
        for (image, before) in kept {
            assert_eq!(now[&image], before);
        }
        let unfinished = walk(out).filter(|name| name.starts_with(".backstitch-"));
        assert_eq!(unfinished.count(), 0);
    }
}

fn backstitch() -> Command {
    Command::new(env!("CARGO_BIN_EXE_backstitch"))
}

/// Runs a command that must succeed; gives its stderr.
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    stderr
}

/// All that a run found so far.
fn found(out: &Path) -> Vec<Found> {
    let of = |(image, mut record): (String, Value)| {
        record.as_object_mut().unwrap().remove("seconds");
        let pixels = std::fs::read(out.join(record["output"].as_str().unwrap())).unwrap();
        (image, record.to_string(), pixels)
    };
    results(out).into_iter().map(of).collect()
}

/// Names of the files in a folder.
fn walk(folder: &Path) -> impl Iterator<Item = String> {
    walkdir::WalkDir::new(folder)
        .into_iter()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
}

/// A run under way, killed when it is dropped.
struct Run {
    child: Child,
    out: PathBuf,
    stderr: PathBuf,
}

impl Run {
    /// Starts a run into `out`; its stderr goes to a file beside that.
    fn start(command: &mut Command, out: &Path) -> Run {
        let stderr = out.with_extension("stderr");
        command.stdout(Stdio::null());
        command.stderr(File::create(&stderr).unwrap());
        Run {
            child: command.spawn().unwrap(),
            out: out.to_owned(),
            stderr,
        }
    }

    /// Polls until `done`, as long as the run goes on.
    fn until(&mut self, what: &str, mut done: impl FnMut(&Run) -> bool) {
        let start = Instant::now();
        while !done(self) {
            let ended = self.child.try_wait().unwrap();
            assert_eq!(ended, None, "before {what}: {}", self.said());
            assert!(start.elapsed() < PATIENCE, "no {what}: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn until_the_first_result(&mut self) {
        self.until("the first result", |run| !results(&run.out).is_empty());
    }

    fn until_it_says(&mut self, text: &str) {
        self.until(text, |run| run.said().contains(text));
    }

    /// What it said on stderr so far.
    fn said(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }

    fn signal(&self, name: &str) {
        common::signal(&self.child, name);
    }

    fn wait(mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "{}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_first_signal_finishes_what_is_in_flight() {
    let undisturbed = Undisturbed::get();
    let folder = TempDir::new().unwrap();
    for signal in ["INT", "TERM"] {
        let out = folder.path().join(signal);
        let mut run = Run::start(&mut undisturbed.purify(&out), &out);
        run.until_the_first_result();
        run.signal(signal);
        let stderr = run.stderr.clone();
        assert_eq!(run.wait().code(), Some(130), "{signal}");
        let said = std::fs::read_to_string(stderr).unwrap();
        let last = said.lines().last().unwrap();
        assert_eq!(last, "backstitch: interrupted; what was finished is kept");
        assert!(said.contains("once more to stop at once"), "{said}");
        let run = run_json(&out);
        assert_eq!(run["state"], "interrupted");
        let done = results(&out).len();
        assert!((1..PICTURES).contains(&done), "{signal}: {done}");
        assert_eq!(run["images"]["done"], done);
        undisturbed.resume(&out);
    }
}

#[test]
fn the_second_signal_stops_at_once() {
    let undisturbed = Undisturbed::get();
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("endless");
    let mut command = backstitch();
    command
        .arg("purify")
        .arg(undisturbed.folder.path().join("pictures"));
    command.arg("-o").arg(&out);
    command.arg("--classifier").arg(fixture("toy.onnx"));
    command.args(ENDLESS);
    let mut run = Run::start(&mut command, &out);
    run.until("run.json", |run| run.out.join("run.json").exists());
    run.signal("INT");
    run.until_it_says("once more to stop at once");
    run.signal("INT");
    assert_eq!(run.wait().code(), Some(130));

    let out = folder.path().join("out");
    let mut run = Run::start(&mut undisturbed.purify(&out), &out);
    run.until_the_first_result();
    run.signal("INT");
    run.until_it_says("once more to stop at once");
    run.signal("TERM");
    assert_eq!(run.wait().code(), Some(130));
    undisturbed.resume(&out);
}

#[test]
fn a_killed_run_is_resumed() {
    let undisturbed = Undisturbed::get();
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let mut run = Run::start(&mut undisturbed.purify(&out), &out);
    run.until_the_first_result();
    run.signal("KILL");
    assert_eq!(run.wait().code(), None);
    assert_eq!(run_json(&out)["state"], "running");
    // As if the machine had lost power in the middle of a line and of a file.
    let journal = out.join("results.jsonl");
    let mut torn = std::fs::read(&journal).unwrap();
    torn.extend(b"{\"image\":\"5.png\",\"lab");
    std::fs::write(&journal, torn).unwrap();
    common::write(&out, "images/.backstitch-x", "half a file");
    undisturbed.resume(&out);
}

#[test]
fn a_run_that_was_killed_before_it_began_is_resumed() {
    let undisturbed = Undisturbed::get();
    let folder = TempDir::new().unwrap();
    // The files in the order in which a run begins them; run.json, which says what it is, is the last.
    for (case, files) in [
        &[".lock"][..],
        &["report.html"],
        &["report.html", "results.jsonl"],
        &["results.jsonl"],
    ]
    .into_iter()
    .enumerate()
    {
        let out = folder.path().join(case.to_string());
        for file in files {
            common::write(&out, file, "");
        }
        undisturbed.resume(&out);
    }
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let undisturbed = Undisturbed::get();
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let mut run = Run::start(&mut undisturbed.purify(&out), &out);
    run.until_the_first_result();
    for more in ["--resume", "--overwrite", "--no-report"] {
        let second = undisturbed.purify(&out).arg(more).output().unwrap();
        let said = String::from_utf8(second.stderr).unwrap();
        assert_eq!(second.status.code(), Some(1), "{said}");
        assert!(said.contains("is being written by another run"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert_eq!(run.wait().code(), Some(0));
    assert_eq!(found(&out), undisturbed.found);
}

/// A small file system in memory, unmounted when it is dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None` where this user may not mount.
    fn mount(path: PathBuf, size: &str) -> Option<Tmpfs> {
        std::fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(&path);
        let done = mount.stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
            .then_some(Tmpfs(path))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_the_run_and_room_completes_it() {
    let undisturbed = Undisturbed::get();
    let folder = TempDir::new().unwrap();
    let Some(disk) = Tmpfs::mount(folder.path().join("disk"), "size=1m") else {
        println!("skipped: this user may not mount a tmpfs");
        return;
    };
    let out = disk.0.join("out");
    let filler = common::write(&disk.0, "filler", vec![0; (1 << 20) - 100_000]);
    let output = undisturbed.purify(&out).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    let last = said.lines().last().unwrap();
    assert!(
        last.contains("the disk is full") && last.contains("--resume"),
        "{said}"
    );
    let finished = found(&out);
    assert!((1..PICTURES).contains(&finished.len()), "{said}");
    for result in finished {
        assert!(undisturbed.found.contains(&result), "{}", result.0);
    }
    // Still no room: the same line, and nothing is lost.
    let output = undisturbed.purify(&out).arg("--resume").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the disk is full"), "{said}");
    std::fs::remove_file(filler).unwrap();
    undisturbed.resume(&out);
}

/// Numbers that look random and are the same in every run (a linear congruential generator).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// How many times runs are killed: 50, or as `BACKSTITCH_KILLS` says.
fn kills() -> usize {
    let kills = std::env::var("BACKSTITCH_KILLS");
    kills.map_or(50, |kills| {
        kills.parse().expect("BACKSTITCH_KILLS is a number")
    })
}

/// What a killed run left: every picture has at most one line, and every file is whole.
fn check_nothing_is_torn(undisturbed: &Undisturbed, out: &Path) {
    let text = std::fs::read_to_string(out.join("results.jsonl")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    assert_eq!(
        whole.lines().count(),
        results(out).len(),
        "a picture has two lines"
    );
    if !out.join("images").exists() {
        return;
    }
    for entry in walkdir::WalkDir::new(out.join("images")) {
        let path = entry.unwrap().into_path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() || name.starts_with(".backstitch-") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let whole = undisturbed
            .found
            .iter()
            .any(|(_, _, pixels)| *pixels == bytes);
        assert!(whole, "{name} is torn");
    }
}

#[test]
fn runs_killed_at_random_moments_end_as_if_nothing_had_happened() {
    // Short computations: much of a run is starting, writing and ending.
    let undisturbed = &Undisturbed::new(20);
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let mut random = Random(6);
    let start = Instant::now();
    assert_eq!(
        undisturbed.purify(&out).output().unwrap().status.code(),
        Some(0)
    );
    let whole = start.elapsed().as_millis() as u64;
    std::fs::remove_dir_all(&out).unwrap();
    let mut killed = 0;
    while killed < kills() {
        let mut run = Run::start(undisturbed.purify(&out).arg("--resume"), &out);
        // Runs that go on have less to do.
        let left = PICTURES - results(&out).len();
        let most = whole * (left as u64 + 1) / PICTURES as u64;
        std::thread::sleep(Duration::from_millis(random.below(most)));
        if run.child.try_wait().unwrap().is_none() {
            run.signal("KILL");
            killed += 1;
        }
        let stderr = run.stderr.clone();
        let code = run.wait().code();
        let said = std::fs::read_to_string(stderr).unwrap();
        assert!(matches!(code, None | Some(0)), "{code:?}: {said}");
        check_nothing_is_torn(undisturbed, &out);
        if code == Some(0) || results(&out).len() == PICTURES {
            undisturbed.resume(&out);
            std::fs::remove_dir_all(&out).unwrap();
        }
    }
    undisturbed.resume(&out);
    println!("{killed} kills in {:.1} s", start.elapsed().as_secs_f64());
}

#[test]
fn killed_runs_into_tar_shards_lose_and_double_nothing() {
    let undisturbed = Undisturbed::get();
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let purify = || {
        let mut command = undisturbed.purify(&out);
        command.args(["--resume", "--tar-out", "--tar-pictures", "2"]);
        command
    };
    for wanted in [1, 2, 3, 5] {
        let mut run = Run::start(&mut purify(), &out);
        run.until("more results", |run| results(&run.out).len() >= wanted);
        run.signal("KILL");
        assert_eq!(run.wait().code(), None);
        let text = std::fs::read_to_string(out.join("results.jsonl")).unwrap();
        assert!(text.lines().count() <= PICTURES);
    }
    succeed(&mut purify());
    let mut outputs: Vec<Vec<u8>> = Vec::new();
    for entry in std::fs::read_dir(out.join("images")).unwrap() {
        let mut tar = tar::Archive::new(File::open(entry.unwrap().path()).unwrap());
        for member in tar.entries().unwrap() {
            let mut bytes = Vec::new();
            member.unwrap().read_to_end(&mut bytes).unwrap();
            outputs.push(bytes);
        }
    }
    let mut want: Vec<Vec<u8>> = undisturbed.found.iter().map(|f| f.2.clone()).collect();
    outputs.sort();
    want.sort();
    assert!(outputs == want, "each picture is in one shard, once");
    let text = std::fs::read_to_string(out.join("results.jsonl")).unwrap();
    assert_eq!(text.lines().count(), PICTURES);
    assert_eq!(results(&out).len(), PICTURES);
}

#[test]
fn a_folder_that_is_removed_ends_the_run() {
    let undisturbed = Undisturbed::get();
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let mut run = Run::start(&mut undisturbed.purify(&out), &out);
    run.until_the_first_result();
    std::fs::rename(&out, folder.path().join("elsewhere")).unwrap();
    let stderr = run.stderr.clone();
    assert_eq!(run.wait().code(), Some(1));
    let said = std::fs::read_to_string(stderr).unwrap();
    let last = said.lines().last().unwrap();
    assert!(last.contains("was removed or replaced"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(!out.exists(), "no half of a folder is left");
    undisturbed.resume(&out);
}

#[test]
fn bad_files_among_a_hundred_are_a_line_each() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("in");
    for i in 0..100 {
        let bytes = match i {
            37 => common::truncated_png(),
            _ => common::png(32, 32),
        };
        common::write(&root, &format!("{i:02}.png"), bytes);
    }
    // Listed, and gone or no file when its turn comes.
    std::os::unix::fs::symlink("nowhere", root.join("90-gone.png")).unwrap();
    let out = folder.path().join("out");
    let purify = |more: &[&str]| {
        let mut command = backstitch();
        command.arg("purify").arg(&root).arg("-o").arg(&out);
        command.arg("--classifier").arg(fixture("toy.onnx"));
        command.args([
            "--preset",
            "cifar",
            "--iterations",
            "8",
            "--probe-interval",
            "4",
        ]);
        command.args(["--restarts", "1", "--capacity", "1", "--threads", "1"]);
        command.args(more);
        command
    };
    let mut run = Run::start(&mut purify(&[]), &out);
    run.until_the_first_result();
    // While it runs, a file vanishes and another cannot be read any more.
    std::fs::remove_file(root.join("98.png")).unwrap();
    std::fs::remove_file(root.join("99.png")).unwrap();
    std::fs::create_dir(root.join("99.png")).unwrap();
    assert_eq!(run.wait().code(), Some(1));
    let check = |failed: &[&str]| {
        let text = std::fs::read_to_string(out.join("results.jsonl")).unwrap();
        let found = results(&out);
        assert_eq!((text.lines().count(), found.len()), (101, 101));
        for (image, record) in &found {
            let fails = failed.contains(&image.as_str());
            assert_eq!(record["error"].is_string(), fails, "{record}");
            assert_eq!(record["output"].is_string(), !fails, "{record}");
        }
    };
    check(&["37.png", "90-gone.png", "98.png", "99.png"]);
    // Failed pictures are tried again, and still have one line each.
    std::fs::write(root.join("37.png"), common::png(32, 32)).unwrap();
    std::fs::write(root.join("98.png"), common::png(32, 32)).unwrap();
    assert_eq!(
        purify(&["--resume"]).output().unwrap().status.code(),
        Some(1)
    );
    // A folder is no picture of the list any more: its line went with it.
    let text = std::fs::read_to_string(out.join("results.jsonl")).unwrap();
    let found = results(&out);
    assert_eq!((text.lines().count(), found.len()), (100, 100));
    let failed: Vec<&String> = found
        .iter()
        .filter(|(_, record)| record["error"].is_string())
        .map(|(image, _)| image)
        .collect();
    assert_eq!(failed, ["90-gone.png"]);
}

#[test]
fn a_closed_stdout_ends_the_command_quietly() {
    let folder = TempDir::new().unwrap();
    // More lines than a pipe holds.
    let array = common::write(
        folder.path(),
        "many.npy",
        common::npy_u8(&[3000, 3, 32, 32], &vec![128; 3000 * 3 * 32 * 32]),
    );
    let mut command = backstitch();
    command.arg("classify").arg(array);
    command.arg("--classifier").arg(fixture("toy.onnx"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut first = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut first).unwrap();
    assert!(first.starts_with("many.npy#0: "), "{first}");
    drop(stdout);
    let mut said = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
    assert_eq!(said, "");
}
