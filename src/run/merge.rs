//! Joins the run folders of a data set's shards into one that looks like that of a single run.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::claim::lock;
use super::line::Line;
use super::pictures::file_of;
use super::report::Report;
use super::resume::{self, SAME, differences};
use super::status::Counts;
use super::tally::Tally;
use crate::error::{Error, Result};
use crate::files::jsonl;
use crate::files::replace::{Replacement, replace, write_error};
use crate::input::Shard;
use crate::input::names::in_order;

/// Options of `merge`.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether to join the shards that exist even if others are missing or not finished.
    pub partial: bool,
    /// Whether to join the reports too.
    pub report: bool,
}

/// A run folder to join.
#[derive(Debug)]
struct Run {
    path: PathBuf,
    /// Its `run.json`.
    about: Value,
    shard: Option<Shard>,
    _lock: File,
}

/// The position of a result's line.
#[derive(Debug)]
struct ResultLine {
    image: String,
    run: usize,
    start: u64,
    failed: bool,
}

/// Joins `runs` into `out`: results in the order of the pictures' names, each picture once; output pictures
/// are linked or copied. `out` appears when it is complete.
///
/// # Errors
/// `out` exists; a run is damaged, still written to, or of another command, version or configuration than
/// the first; a shard is given twice; without `partial`, a shard is missing or not finished; two runs have
/// different results for a picture.
pub fn merge(runs: &[PathBuf], out: &Path, options: &Options) -> Result<Counts> {
    if std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) || out.is_file() {
        return Err(Error::file(
            out,
            "is there already; name another folder, or remove it",
        ));
    }
    let runs: Vec<Run> = runs
        .iter()
        .map(|run| Run::open(run))
        .collect::<Result<_>>()?;
    check_same(&runs)?;
    check_complete(&runs, options.partial)?;

    let unfinished = Unfinished::start(out)?;
    let mut results = index(&runs, options.partial)?;
    results.sort_by(|a, b| in_order(&a.image, &b.image));
    let (counts, tally) = join_results(&runs, &mut results, &unfinished.path)?;
    if options.report {
        join_reports(&runs, counts, &unfinished.path)?;
    }
    let about = describe(&runs, counts, &tally);
    let text = serde_json::to_string_pretty(&about).expect("it is plain data") + "\n";
    replace(&unfinished.path.join("run.json"), text.as_bytes())?;
    unfinished.finish(out)?;
    Ok(counts)
}

impl Run {
    fn open(path: &Path) -> Result<Run> {
        if !path.join("run.json").is_file() {
            return Err(Error::file(path, "holds no run"));
        }
        let lock = lock(path)?;
        let about = resume::read(path)?;
        let shard = serde_json::from_value(about["shard"].clone())
            .map_err(|error| Error::file(path, format!("has a run.json without shard: {error}")))?;
        Ok(Run {
            path: path.to_owned(),
            about,
            shard,
            _lock: lock,
        })
    }

    fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }
}

/// Refuses runs that may give different results for the same picture.
fn check_same(runs: &[Run]) -> Result<()> {
    let first = &runs[0];
    for run in &runs[1..] {
        let mut found = Vec::new();
        for key in SAME.into_iter().filter(|key| *key != "shard") {
            differences(key, &first.about[key], &run.about[key], &mut found);
        }
        if let Some(difference) = found.first() {
            return Err(Error::file(
                &run.path,
                format!(
                    "cannot be joined with {}: {difference} here",
                    first.path.display()
                ),
            ));
        }
    }
    Ok(())
}

/// Refuses runs that are not all shards, each given once and finished.
fn check_complete(runs: &[Run], partial: bool) -> Result<()> {
    let of = runs[0].shard.map(|shard| shard.of);
    let mut seen = BTreeSet::new();
    for run in runs {
        if run.shard.map(|shard| shard.of) != of {
            let part = |shard: Option<Shard>| match shard {
                Some(shard) => format!("shard {shard}"),
                None => "no shard".to_owned(),
            };
            return Err(Error::file(
                &run.path,
                format!(
                    "is {} and {} is {}",
                    part(run.shard),
                    runs[0].path.display(),
                    part(runs[0].shard)
                ),
            ));
        }
        if let Some(shard) = run.shard
            && !seen.insert(shard.index)
        {
            return Err(Error::file(
                &run.path,
                format!("is shard {shard}, which is given twice"),
            ));
        }
        if !partial && run.about["state"] != "done" {
            return Err(Error::file(&run.path, "is not finished")
                .hint("continue it with `resume`, or join without the rest with `partial`"));
        }
    }
    let missing: Vec<String> = (0..of.unwrap_or(0))
        .filter(|index| !seen.contains(index))
        .take(20)
        .map(|index| index.to_string())
        .collect();
    if !partial && !missing.is_empty() {
        let message = format!(
            "of {} shards these are missing: {}",
            of.unwrap_or(0),
            missing.join(", ")
        );
        return Err(Error::invalid(message).hint("name their folders too, or use `partial`"));
    }
    Ok(())
}

/// One result for each picture of all runs; a result is preferred to an error.
fn index(runs: &[Run], partial: bool) -> Result<Vec<ResultLine>> {
    let mut results: Vec<ResultLine> = Vec::new();
    let mut by_image: HashMap<u64, usize> = HashMap::new();
    for (run, Run { path, .. }) in runs.iter().enumerate() {
        let path = path.join("results.jsonl");
        let file = File::open(&path).map_err(Error::io(&path))?;
        let mut start = 0;
        jsonl::read(&path, &file, |line: Option<Line>, size| {
            let here = start;
            start += size;
            let Some(line) = line else {
                return match partial {
                    true => Ok(()),
                    false => {
                        Err(Error::file(&path, "has an incomplete last line").hint("use `resume`"))
                    }
                };
            };
            let result = ResultLine {
                image: line.image,
                run,
                start: here,
                failed: line.error.is_some(),
            };
            let hash = xxhash_rust::xxh3::xxh3_64(result.image.as_bytes());
            let Some(&other) = by_image.get(&hash) else {
                by_image.insert(hash, results.len());
                results.push(result);
                return Ok(());
            };
            let other = &mut results[other];
            if other.image != result.image {
                // Different names have equal hashes: both are kept.
                results.push(result);
            } else if other.failed {
                *other = result;
            } else if !result.failed && !same_result(runs, other, &result)? {
                return Err(Error::file(
                    &path,
                    format!(
                        "differs about {} from {}",
                        result.image.escape_debug(),
                        runs[other.run].path.join("results.jsonl").display()
                    ),
                ));
            }
            Ok(())
        })?;
    }
    Ok(results)
}

/// Whether two results of a picture are equal except for the time they took.
fn same_result(runs: &[Run], a: &ResultLine, b: &ResultLine) -> Result<bool> {
    let read = |result: &ResultLine| -> Result<Value> {
        let path = runs[result.run].path.join("results.jsonl");
        let mut reader = BufReader::new(File::open(&path).map_err(Error::io(&path))?);
        let mut value: Value = serde_json::from_slice(&line_at(&path, &mut reader, result.start)?)
            .map_err(|error| Error::file(&path, error.to_string()))?;
        if let Some(fields) = value.as_object_mut() {
            fields.shift_remove("seconds");
        }
        Ok(value)
    };
    Ok(read(a)? == read(b)?)
}

fn line_at(path: &Path, reader: &mut BufReader<File>, start: u64) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    let here = reader.stream_position().map_err(Error::io(path))?;
    // Seeking relative to the current position keeps what was read ahead; most lines are consecutive.
    reader
        .seek_relative(start as i64 - here as i64)
        .and_then(|()| reader.read_until(b'\n', &mut line))
        .map_err(Error::io(path))?;
    Ok(line)
}

/// Writes `results.jsonl` and the output pictures.
fn join_results(runs: &[Run], results: &mut [ResultLine], out: &Path) -> Result<(Counts, Tally)> {
    let path = out.join("results.jsonl");
    let mut joined = Replacement::create(&path)?;
    let mut readers = Vec::new();
    for run in runs {
        let path = run.path.join("results.jsonl");
        readers.push(BufReader::new(File::open(&path).map_err(Error::io(&path))?));
    }
    let (mut counts, mut tally) = (Counts::default(), Tally::default());
    // Tar files, and the runs they are from.
    let mut taken: HashMap<PathBuf, usize> = HashMap::new();
    let mut folders: HashSet<PathBuf> = HashSet::new();
    for result in results {
        let run = &runs[result.run];
        let path = run.path.join("results.jsonl");
        let bytes = line_at(&path, &mut readers[result.run], result.start)?;
        let line: Line = serde_json::from_slice(&bytes)
            .map_err(|error| Error::file(&path, error.to_string()))?;
        if let Some(output) = &line.output {
            let Some(file) = file_of(&run.path, output) else {
                if run.about["state"] != "done" {
                    // The picture is in a tar file that was never completed.
                    continue;
                }
                let output = run.path.join(output);
                return Err(Error::file(output, "is missing").hint("make it again with `resume`"));
            };
            match taken.get(&file) {
                None => {
                    put(&run.path.join(&file), &out.join(&file), &mut folders)?;
                    // A tar file has several pictures, but is linked once; other files have one picture.
                    if Path::new(output) != file {
                        taken.insert(file, result.run);
                    }
                }
                Some(&other) if other != result.run => {
                    return Err(Error::file(
                        run.path.join(&file),
                        format!(
                            "has the name of another file in {}",
                            runs[other].path.display()
                        ),
                    ));
                }
                Some(_) => {}
            }
        }
        match line.error {
            Some(_) => counts.failed += 1,
            None => {
                counts.done += 1;
                tally.add(&line);
            }
        }
        joined.write(&bytes)?;
    }
    joined.finish()?;
    let listed = |run: &Run| run.about["images"]["total"].as_u64().unwrap_or(0) as usize;
    counts.total = runs.iter().map(listed).sum();
    Ok((counts, tally))
}

/// Links a file, or copies it if it cannot be linked.
fn put(from: &Path, to: &Path, folders: &mut HashSet<PathBuf>) -> Result<()> {
    let folder = to.parent().expect("it is in images/");
    if !folders.contains(folder) {
        std::fs::create_dir_all(folder).map_err(write_error(folder))?;
        folders.insert(folder.to_owned());
    }
    match std::fs::hard_link(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::file(
            from,
            "has the name of another run's file; runs whose outputs have the same names cannot be \
             joined",
        )),
        Err(_) => std::fs::copy(from, to).map(|_| ()).map_err(write_error(to)),
        Ok(()) => Ok(()),
    }
}

/// Joins the reports that exist into `report.html`.
fn join_reports(runs: &[Run], counts: Counts, out: &Path) -> Result<()> {
    let reports: Vec<PathBuf> = runs
        .iter()
        .map(Run::report)
        .filter(|r| r.is_file())
        .collect();
    if reports.is_empty() {
        return Ok(());
    }
    let command = runs[0].about["command"].as_str().unwrap_or_default();
    let joined = Report::open(&out.join("report.html"), command, None)?;
    for report in reports {
        joined.take_over(&report)?;
    }
    joined.total(counts)
}

/// `run.json` of the joined run.
fn describe(runs: &[Run], counts: Counts, tally: &Tally) -> Value {
    let first = &runs[0].about;
    let number = |run: &Run, key: &str| run.about[key].as_f64().unwrap_or(0.0);
    let sum = |key: &str| runs.iter().map(|run| number(run, key)).sum::<f64>();
    let longest = runs.iter().map(|run| number(run, "seconds"));
    let finished = runs.iter().all(|run| run.about["state"] == "done");
    let complete = match runs[0].shard {
        Some(shard) => shard.of as usize == runs.len(),
        None => true,
    };
    let mut about = json!({
        "backstitch": first["backstitch"],
        "command": first["command"],
        "state": if finished && complete { "done" } else { "interrupted" },
        "started": runs.iter().filter_map(|run| run.about["started"].as_u64()).min(),
        "seconds": longest.fold(0.0, f64::max),
        "images": counts,
        "images_per_second": sum("images_per_second"),
    });
    let fields = about.as_object_mut().expect("it is an object");
    fields.extend(tally.describe(first["command"].as_str().unwrap_or_default()));
    let mut phases = Map::new();
    for (phase, seconds) in runs
        .iter()
        .filter_map(|run| run.about["seconds_by_phase"].as_object())
        .flatten()
    {
        let before = phases.get(phase).and_then(Value::as_f64).unwrap_or(0.0);
        let seconds = before + seconds.as_f64().unwrap_or(0.0);
        phases.insert(phase.clone(), seconds.into());
    }
    fields.insert("seconds_by_phase".into(), phases.into());
    let peak = runs
        .iter()
        .filter_map(|run| run.about["peak_memory_bytes"].as_u64());
    if let Some(peak) = peak.max() {
        fields.insert("peak_memory_bytes".into(), peak.into());
    }
    for key in ["configuration", "output"] {
        fields.insert(key.into(), first[key].clone());
    }
    fields.insert("shard".into(), Value::Null);
    let changes: Vec<Value> = runs
        .iter()
        .filter_map(|run| run.about["changes"].as_array())
        .flatten()
        .cloned()
        .collect();
    if !changes.is_empty() {
        fields.insert("changes".into(), changes.into());
    }
    let parts: Vec<Value> = runs
        .iter()
        .map(|run| {
            let keys = [
                "shard",
                "state",
                "seconds",
                "images",
                "images_per_second",
                "device",
            ];
            let part = keys.map(|key| (key.to_owned(), run.about[key].clone()));
            Value::Object(part.into_iter().collect())
        })
        .collect();
    fields.insert("merged".into(), parts.into());
    about
}

/// A folder that is written under a temporary name and renamed when it is complete. What a killed merge left
/// under that name is removed.
struct Unfinished {
    path: PathBuf,
    _lock: File,
}

impl Unfinished {
    fn start(out: &Path) -> Result<Unfinished> {
        let parent = match out.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let name = out
            .file_name()
            .ok_or_else(|| Error::file(out, "is no name for a new folder"))?;
        std::fs::create_dir_all(parent).map_err(write_error(parent))?;
        let mut unfinished = std::ffi::OsString::from(".backstitch-merge-");
        unfinished.push(name);
        let path = parent.join(unfinished);
        std::fs::create_dir_all(&path).map_err(write_error(&path))?;
        let lock = lock(&path)?;
        for entry in std::fs::read_dir(&path).map_err(Error::io(&path))? {
            let entry = entry.map_err(Error::io(&path))?;
            let left = entry.path();
            let removed = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => std::fs::remove_dir_all(&left),
                false if entry.file_name() == ".lock" => Ok(()),
                false => std::fs::remove_file(&left),
            };
            removed.map_err(Error::io(&left))?;
        }
        Ok(Unfinished { path, _lock: lock })
    }

    fn finish(self, out: &Path) -> Result<()> {
        // An empty folder of that name may exist.
        let _ = std::fs::remove_dir(out);
        std::fs::rename(&self.path, out).map_err(write_error(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_the_order_of_folders_and_arrays() {
        let mut ids = [
            "b.png",
            "a/z.png",
            "x.npy#10",
            "a/b/c.png",
            "x.npy#9",
            "a-b/c.png",
            "x.npy#100",
        ];
        ids.sort_by(|a, b| in_order(a, b));
        let want = [
            "a/b/c.png",
            "a/z.png",
            "a-b/c.png",
            "b.png",
            "x.npy#9",
            "x.npy#10",
            "x.npy#100",
        ];
        assert_eq!(ids, want);
    }
}
