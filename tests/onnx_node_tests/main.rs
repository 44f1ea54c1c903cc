//! ONNX's own node tests, from PyPI's package `onnx`: every test of an operator in the importer's
//! table passes or is excluded by name with a reason.
//!
//! `scripts/test.sh` installs the package; without it the suite says that it skips.

mod case;
mod engines;
mod exclusions;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use backstitch::classifier::onnx::OPERATORS;

use self::case::{Case, Run};
use self::engines::Outcome;
use self::exclusions::{EXCLUSIONS, Exclusion, OTHER_NUMBERS, Reason};

/// The package whose tests the exclusions are about.
const PACKAGE: &str = "onnx==1.22.0";
/// Tests that pass, at least.
const PASSED: usize = 945;

/// The folder of the tests: where the environment says, or in the repository's Python environment.
fn data() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("BACKSTITCH_ONNX_NODE_TESTS") {
        let folder = PathBuf::from(folder);
        assert!(folder.is_dir(), "{} is not a folder", folder.display());
        return Some(folder);
    }
    let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/tests/lib");
    let tests = "site-packages/onnx/backend/test/data/node";
    let pythons = std::fs::read_dir(libraries).ok()?.flatten();
    let mut folders = pythons.map(|python| python.path().join(tests));
    folders.find(|folder| folder.is_dir())
}

/// Says something past the test harness, which keeps what tests that pass print to itself.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).unwrap();
}

/// What became of all tests.
#[derive(Default)]
struct Tally {
    tests: usize,
    /// Tests that passed with an input as the image, once at least.
    computed: usize,
    /// Tests that passed on constants alone.
    folded: usize,
    /// Runs that passed.
    runs: usize,
    /// Excluded tests (those of which no run passed, by the first one's reason) and runs.
    excluded: BTreeMap<Reason, (usize, usize)>,
    /// Operators of tests that passed.
    operators: BTreeSet<String>,
    failures: Vec<String>,
    /// Indices of the exclusions and of the patterns that named a refused run.
    used: BTreeSet<(usize, &'static str)>,
}

impl Tally {
    fn add(&mut self, case: &Case, path: &Path) {
        let failures = self.failures.len();
        let (mut computed, mut folded, mut reasons) = (false, false, Vec::new());
        for run in case.runs() {
            let outcome = match case.wrap(&run) {
                Ok(wrapped) => catch_unwind(AssertUnwindSafe(|| engines::run(&wrapped, path)))
                    .unwrap_or_else(|_| Outcome::Wrong("it panics".into())),
                Err(reason) => Outcome::Refused(reason),
            };
            match outcome {
                Outcome::Passed => {
                    self.runs += 1;
                    computed |= run.is_computed();
                    folded |= !run.is_computed();
                    self.check_stale(case, &run);
                }
                Outcome::Refused(said) => match self.exclusion(case, &run, &said) {
                    Some(reason) => {
                        self.excluded.entry(reason).or_default().1 += 1;
                        reasons.push(reason);
                    }
                    None => self.fail(case, &run, &format!("is refused: {said}")),
                },
                Outcome::Wrong(difference) => self.fail(case, &run, &difference),
            }
        }
        self.tests += 1;
        if self.failures.len() > failures {
            return; // It counts with them.
        }
        if computed || folded {
            self.operators.extend(case.operators().map(String::from));
        }
        match (computed, folded, reasons.first()) {
            (true, _, _) => self.computed += 1,
            (_, true, _) => self.folded += 1,
            (_, _, Some(&reason)) => self.excluded.entry(reason).or_default().0 += 1,
            (_, _, None) => self.failures.push(format!("{}: has no outputs", case.name)),
        }
    }

    fn fail(&mut self, case: &Case, run: &Run<'_>, what: &str) {
        self.failures.push(format!("{} [{run}] {what}", case.name));
    }

    /// The reason to exclude a run that is refused with these words.
    fn exclusion(&mut self, case: &Case, run: &Run<'_>, said: &str) -> Option<Reason> {
        let run = run.to_string();
        let found: Vec<(usize, &Exclusion)> = (EXCLUSIONS.iter().enumerate())
            .filter(|(_, exclusion)| {
                exclusion.names(&case.name, &run)
                    && exclusion.says.iter().any(|part| said.contains(part))
            })
            .collect();
        for (i, exclusion) in &found {
            let patterns = exclusion.patterns(&case.name, &run);
            self.used.extend(patterns.map(|pattern| (*i, pattern)));
        }
        found.first().map(|(_, exclusion)| exclusion.reason)
    }

    /// A run that passes may not be named by an exclusion.
    fn check_stale(&mut self, case: &Case, run: &Run<'_>) {
        let name = run.to_string();
        if EXCLUSIONS
            .iter()
            .any(|exclusion| exclusion.names(&case.name, &name))
        {
            self.fail(case, run, "passes, but is excluded");
        }
    }

    /// Exclusions that name nothing that is refused.
    fn unused(&self) -> impl Iterator<Item = String> {
        EXCLUSIONS
            .iter()
            .enumerate()
            .flat_map(move |(i, exclusion)| {
                let patterns = exclusion.tests.iter().chain(exclusion.runs);
                patterns
                    .filter(move |pattern| !self.used.contains(&(i, pattern)))
                    .map(move |pattern| format!("exclusion {i}: {pattern} excludes nothing"))
            })
    }

    fn summary(&self, all: usize) -> String {
        let sums = self.excluded.values();
        let (tests, runs) = sums.fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
        let mut text = format!(
            "ONNX node tests: {} of {all} are of operators in the table\n\
             {:6} passed: {} with an input as the image, {} on constants alone; {} runs\n\
             {tests:6} excluded; {runs} runs, some of them of tests that pass otherwise\n",
            self.tests,
            self.computed + self.folded,
            self.computed,
            self.folded,
            self.runs,
        );
        for (reason, (tests, runs)) in &self.excluded {
            let line = format!("{tests:10}, {runs} runs: {}\n", reason.text());
            text.push_str(&line);
        }
        let untested: Vec<&str> = (OPERATORS.iter().map(|operator| operator.name))
            .filter(|&name| !self.operators.contains(name))
            .collect();
        text += &format!("{:6} failed", self.failures.len());
        if !untested.is_empty() {
            text += &format!("\noperators that no test covers: {}", untested.join(", "));
        }
        text
    }
}

#[test]
fn every_node_test_passes_or_is_excluded_with_a_reason() {
    let Some(data) = data() else {
        say(&format!(
            "skipped: ONNX's node tests are absent; scripts/test.sh installs them ({PACKAGE})"
        ));
        return;
    };
    let mut folders: Vec<PathBuf> = (std::fs::read_dir(&data).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|folder| folder.join("model.onnx").is_file())
        .collect();
    folders.sort();
    let known: BTreeSet<&str> = OPERATORS.iter().map(|operator| operator.name).collect();
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.onnx");
    let mut tally = Tally::default();
    for case in folders.iter().flat_map(|folder| case::read(folder)) {
        if OTHER_NUMBERS.contains(&case.name.as_str()) {
            continue;
        }
        if case.is_standard() && case.operators().all(|operator| known.contains(operator)) {
            tally.add(&case, &path);
        }
    }
    let unused: Vec<String> = tally.unused().collect();
    tally.failures.extend(unused);
    say(&tally.summary(folders.len()));
    assert!(
        tally.failures.is_empty(),
        "with the tests of {PACKAGE} in {}:\n{}",
        data.display(),
        tally.failures.join("\n")
    );
    assert!(tally.computed + tally.folded >= PASSED);
}

#[test]
fn the_documentation_says_how_many_pass() {
    let page = include_str!("../../docs/development.md");
    assert!(page.contains(&format!("at least {PASSED} pass")));
}
