use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::*;
use crate::error::{Error, Result};
use crate::input::Dataset;
use crate::picture::{Picture, rgb, write_png};

/// A folder `in` with three pictures, and one beside it for a run.
struct Fixture {
    folder: tempfile::TempDir,
    dataset: Dataset,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let inputs = folder.path().join("in");
    std::fs::create_dir_all(inputs.join("n1")).unwrap();
    for name in ["a.png", "n1/b.png", "n1/c.png"] {
        let mut png = Vec::new();
        write_png(&mut png, rgb(2, 2), &[0.2; 12]).unwrap();
        std::fs::write(inputs.join(name), png).unwrap();
    }
    let dataset = Dataset::open(&[inputs], None, None).unwrap();
    Fixture { folder, dataset }
}

impl Fixture {
    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn open(&self, existing: Existing) -> Result<RunFolder> {
        self.open_with(
            existing,
            json!({"seed": 1, "eps": 4.0 / 255.0}),
            SaveFormat::Png,
        )
    }

    fn open_with(
        &self,
        existing: Existing,
        configuration: Value,
        save: SaveFormat,
    ) -> Result<RunFolder> {
        let options = RunOptions {
            path: self.out(),
            existing,
            save,
            report: true,
            ..RunOptions::default()
        };
        let description = RunDescription {
            command: "purify",
            configuration,
            more: Map::new(),
        };
        RunFolder::open(options, description, &self.dataset)
    }

    /// Records picture `index`, its output flat.
    fn record(&self, run: &RunFolder, index: usize, level: f32) {
        let item = self.dataset.item(index);
        let record = ImageRecord {
            seconds: Some(0.5),
            ..ImageRecord::of(&item)
        };
        let pixels = Pixels {
            shape: rgb(2, 2),
            input: &[0.2; 12],
            output: &[level; 12],
        };
        run.record(record, Some(pixels)).unwrap();
    }

    fn fail(&self, run: &RunFolder, index: usize) {
        let error = Error::invalid("damaged");
        let record = ImageRecord::failed(&self.dataset.item(index), error.to_string());
        run.record(record, None).unwrap();
    }

    fn results(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.out().join("results.jsonl")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn run_json(&self) -> Value {
        let text = std::fs::read_to_string(self.out().join("run.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Files and folders of the run folder.
    fn files(&self) -> Vec<String> {
        let walk = walkdir::WalkDir::new(self.out())
            .min_depth(1)
            .sort_by_file_name();
        walk.into_iter()
            .map(|entry| {
                crate::input::names::id_of(entry.unwrap().path().strip_prefix(self.out()).unwrap())
            })
            .collect()
    }
}

#[test]
fn a_run_leaves_pictures_results_and_a_description() {
    let fixture = fixture();
    let run = fixture.open(Existing::Refuse).unwrap();
    assert_eq!(fixture.run_json()["state"], "running");
    fixture.record(&run, 0, 0.4);
    // On disk before the next picture.
    assert_eq!(fixture.results().len(), 1);
    fixture.record(&run, 1, 0.7);
    fixture.fail(&run, 2);
    let more = json!({"device": "cpu"}).as_object().unwrap().clone();
    let counts = run.close(RunState::Done, &more).unwrap();
    assert_eq!(
        counts,
        Counts {
            total: 3,
            resumed: 0,
            done: 2,
            failed: 1
        }
    );
    assert_eq!(
        fixture.files(),
        [
            ".lock",
            "images",
            "images/a.png",
            "images/n1",
            "images/n1/b.png",
            "report.html",
            "results.jsonl",
            "run.json"
        ]
    );
    let picture = Picture::open(fixture.out().join("images/n1/b.png")).unwrap();
    assert_eq!(picture.to_rgb8(), [179; 12]);
    let results = fixture.results();
    assert_eq!(results[1]["image"], "n1/b.png");
    assert_eq!(results[1]["output"], "images/n1/b.png");
    assert_eq!(results[2]["error"], "damaged");
    assert_eq!(results[2].get("output"), None);
    let run = fixture.run_json();
    assert_eq!(run["state"], "done");
    assert_eq!(run["device"], "cpu");
    assert_eq!(run["images"]["failed"], 1);
    assert_eq!(run["configuration"]["seed"], 1);
}

#[test]
fn npy_output_is_exact() {
    let fixture = fixture();
    let run = fixture
        .open_with(Existing::Refuse, json!({}), SaveFormat::Npy)
        .unwrap();
    fixture.record(&run, 0, 0.123_456_79);
    let array =
        crate::input::arrays::ArrayFile::open_npy(&fixture.out().join("images/a.npy"), None);
    assert_eq!(array.unwrap().load(0).unwrap().pixels, [0.123_456_79; 12]);
}

#[test]
fn another_run_is_refused() {
    let fixture = fixture();
    let run = fixture.open(Existing::Refuse).unwrap();
    // While it runs, nobody else may write there, whatever they ask for.
    for existing in [Existing::Refuse, Existing::Overwrite, Existing::Resume] {
        let error = fixture.open(existing).unwrap_err().to_string();
        assert!(error.contains("is being written by another run"), "{error}");
    }
    run.close(RunState::Done, &Map::new()).unwrap();
    let error = fixture.open(Existing::Refuse).unwrap_err().to_string();
    assert!(
        error.contains("`resume`") && error.contains("`overwrite`"),
        "{error}"
    );
}

#[test]
fn an_output_that_is_no_folder_is_refused() {
    let fixture = fixture();
    std::fs::write(fixture.out(), "text").unwrap();
    let error = fixture.open(Existing::Overwrite).unwrap_err().to_string();
    assert!(error.contains("is a file"), "{error}");
    assert_eq!(std::fs::read_to_string(fixture.out()).unwrap(), "text");
}

#[test]
fn overwriting_removes_what_a_run_wrote_and_nothing_else() {
    let fixture = fixture();
    let run = fixture.open(Existing::Refuse).unwrap();
    fixture.record(&run, 0, 0.4);
    fixture.record(&run, 1, 0.4);
    drop(run);
    let results = fixture.out().join("results.jsonl");
    let outside = fixture.folder.path().join("in/a.png");
    let mut text = std::fs::read_to_string(&results).unwrap();
    text += "{\"image\": \"x\", \"output\": \"images/../../in/a.png\"}\n";
    std::fs::write(&results, text).unwrap();
    std::fs::write(fixture.out().join("images/mine.txt"), "mine").unwrap();
    std::fs::write(fixture.out().join("images/.backstitch-abc"), "torn").unwrap();
    let run = fixture.open(Existing::Overwrite).unwrap();
    assert_eq!(
        fixture.files(),
        [
            ".lock",
            "images",
            "images/mine.txt",
            "report.html",
            "results.jsonl",
            "run.json"
        ]
    );
    assert!(outside.exists());
    assert!(fixture.results().is_empty());
    assert_eq!(run.counts().resumed, 0);
}

#[test]
fn resuming_skips_what_is_finished_and_tries_again_what_failed() {
    let fixture = fixture();
    let run = fixture.open(Existing::Refuse).unwrap();
    fixture.record(&run, 0, 0.4);
    fixture.fail(&run, 1);
    drop(run);
    // A crash tears the last line.
    let results = fixture.out().join("results.jsonl");
    let mut text = std::fs::read_to_string(&results).unwrap();
    text += "{\"image\": \"n1/c.png\", \"lab";
    std::fs::write(&results, text).unwrap();

    let run = fixture.open(Existing::Resume).unwrap();
    let finished: Vec<bool> = fixture
        .dataset
        .items()
        .map(|item| run.is_finished(&item.id))
        .collect();
    assert_eq!(finished, [true, false, false]);
    assert_eq!(fixture.results().len(), 1);
    fixture.record(&run, 1, 0.5);
    fixture.record(&run, 2, 0.6);
    let counts = run.close(RunState::Done, &Map::new()).unwrap();
    assert_eq!(
        counts,
        Counts {
            total: 3,
            resumed: 1,
            done: 2,
            failed: 0
        }
    );
    let images: Vec<Value> = fixture
        .results()
        .iter()
        .map(|r| r["image"].clone())
        .collect();
    assert_eq!(images, ["a.png", "n1/b.png", "n1/c.png"]);
}

#[test]
fn resuming_needs_the_same_configuration() {
    let fixture = fixture();
    drop(fixture.open(Existing::Refuse).unwrap());
    assert!(fixture.open(Existing::Resume).is_ok());
    let other = json!({"seed": 2, "eps": 4.0 / 255.0});
    let error = fixture
        .open_with(Existing::Resume, other, SaveFormat::Png)
        .unwrap_err()
        .to_string();
    assert!(error.contains("seed was 1 and is 2"), "{error}");
    let path = fixture.out().join("run.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let version = format!("\"backstitch\": \"{}\"", env!("CARGO_PKG_VERSION"));
    std::fs::write(&path, text.replace(&version, "\"backstitch\": \"0.0.1\"")).unwrap();
    let error = fixture.open(Existing::Resume).unwrap_err().to_string();
    assert!(error.contains("backstitch was \"0.0.1\""), "{error}");
}

#[test]
fn a_journal_damaged_in_the_middle_is_not_resumed() {
    let fixture = fixture();
    drop(fixture.open(Existing::Refuse).unwrap());
    let results = fixture.out().join("results.jsonl");
    std::fs::write(&results, "garbage\n{\"image\": \"a.png\"}\n").unwrap();
    let error = fixture.open(Existing::Resume).unwrap_err().to_string();
    assert!(error.contains("line 1 is damaged"), "{error}");
}
