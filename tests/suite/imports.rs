//! The crate's structure: imports between the rooms of `src/` run downwards only, and no two files of it import
//! each other, directly or through others.
//!
//! Read as text: `use` declarations, and paths that start with `crate::`, `super::`, `self::` or a child module's
//! name. Tests within files are left out, since they may look at everything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The rooms from the ground up. A room may import those before it.
const FLOORS: [&str; 19] = [
    "error",
    "random",
    "markup",
    "plot",
    "files",
    "picture",
    "dip",
    "classifier",
    "backend",
    "defense",
    "scheduler",
    "baseline",
    "attack",
    "purifier",
    "input",
    "run",
    "trace",
    "evaluate",
    "bench",
];

/// Above all floors: it imports whatever it likes.
const ROOFS: [&str; 3] = ["cli", "lib", "main"];

/// A source file's module path and its text without comments and tests.
struct Source {
    module: Vec<String>,
    text: String,
}

fn sources() -> BTreeMap<PathBuf, Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = walkdir::WalkDir::new(&root).into_iter().flatten();
    let rust = files.filter(|file| file.path().extension().is_some_and(|e| e == "rs"));
    rust.map(|file| {
        let path = file.path().strip_prefix(&root).unwrap().to_path_buf();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let mut module: Vec<String> = (path.with_extension("").components())
            .map(|part| part.as_os_str().to_str().unwrap().to_owned())
            .collect();
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        let source = Source {
            module,
            text: code(&text),
        };
        (path, source)
    })
    .filter(|(_, source)| !source.module.iter().any(|part| is_test(part)))
    .collect()
}

/// Whether a module of this name is for tests alone.
fn is_test(module: &str) -> bool {
    module == "tests" || module.ends_with("_tests") || module.starts_with("test_")
}

/// A file's code: without comments, and without its module of tests.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
    let lines = code.lines().map(|line| match line.trim_start() {
        comment if comment.starts_with("//") => "",
        _ => line.split(" // ").next().unwrap_or(""),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths that a `use` declaration's tree stands for.
fn spread(tree: &str) -> Vec<String> {
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or("").trim();
        return vec![path.to_owned()];
    };
    let inside = rest.trim_end().strip_suffix('}').unwrap_or(rest);
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for c in inside.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(c);
    }
    let parts = parts.iter().map(|part| part.trim());
    let paths = parts.filter(|part| !part.is_empty()).flat_map(spread);
    paths
        .map(|path| match path.as_str() {
            "self" => head.trim().trim_end_matches("::").to_owned(),
            path => format!("{}{path}", head.trim()),
        })
        .collect()
}

/// The `use` declarations of a text, with whether each hands its names on; and what is left of the text.
fn declarations(text: &str) -> (Vec<(bool, String)>, String) {
    let (mut found, mut rest) = (Vec::new(), String::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let start = line.trim_start();
        let body = start.strip_prefix("pub").map_or(start, |public| {
            let open = public
                .strip_prefix("(crate)")
                .or(public.strip_prefix("(super)"));
            open.unwrap_or(public).trim_start()
        });
        let Some(tree) = body.strip_prefix("use ") else {
            rest += line;
            rest.push('\n');
            continue;
        };
        let mut tree = tree.to_owned();
        while !tree.trim_end().ends_with(';') {
            let Some(line) = lines.next() else { break };
            tree += line.trim();
            if line.trim_end().ends_with(',') {
                tree.push(' ');
            }
        }
        found.push((
            start.starts_with("pub"),
            tree.trim_end().trim_end_matches(';').to_owned(),
        ));
    }
    (found, rest)
}

/// Paths in code that start at the crate or at a neighbor.
fn paths_in(code: &str) -> Vec<String> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.split(|c| !is_path(c))
        .filter(|word| {
            ["crate::", "super::", "self::"]
                .iter()
                .any(|start| word.starts_with(start))
        })
        .map(|word| word.trim_end_matches(':').to_owned())
        .collect()
}

/// The structure of the sources: which module each file is, and what each hands on from its children.
struct House {
    sources: BTreeMap<PathBuf, Source>,
    by_module: BTreeMap<Vec<String>, PathBuf>,
    /// By module and name: the path that the name is handed on from.
    handed_on: BTreeMap<(Vec<String>, String), Vec<String>>,
}

impl House {
    fn new() -> House {
        let sources = sources();
        let by_module = (sources.iter())
            .map(|(path, source)| (source.module.clone(), path.clone()))
            .collect();
        let mut house = House {
            sources,
            by_module,
            handed_on: BTreeMap::new(),
        };
        let mut handed_on = BTreeMap::new();
        for source in house.sources.values() {
            for (_, tree) in declarations(&source.text)
                .0
                .iter()
                .filter(|(public, _)| *public)
            {
                for path in spread(tree) {
                    let path = house.absolute(&source.module, &path);
                    if let (Some(path), Some(name)) =
                        (path.clone(), path.and_then(|p| p.last().cloned()))
                    {
                        handed_on.insert((source.module.clone(), name), path);
                    }
                }
            }
        }
        house.handed_on = handed_on;
        house
    }

    /// A path as it is seen in `module`, from the crate's root on; `None` for other crates' paths.
    fn absolute(&self, module: &[String], path: &str) -> Option<Vec<String>> {
        let mut parts = path.split("::").map(str::to_owned).peekable();
        let mut at: Vec<String> = match parts.peek().map(String::as_str) {
            Some("crate") => vec![],
            Some("self" | "super") => module.to_vec(),
            Some(first) => {
                let child = [module, &[first.to_owned()]].concat();
                return self.by_module.contains_key(&child).then(|| {
                    [
                        module.to_vec(),
                        path.split("::").map(str::to_owned).collect(),
                    ]
                    .concat()
                });
            }
            None => return None,
        };
        for part in parts {
            match part.as_str() {
                "crate" | "self" => {}
                "super" => drop(at.pop()),
                _ => at.push(part),
            }
        }
        Some(at)
    }

    /// The file that defines what a path names.
    fn file(&self, path: &[String]) -> Option<&PathBuf> {
        let mut path = path.to_vec();
        // A name may be handed on a few times.
        for _ in 0..8 {
            let depth = (0..=path.len())
                .rev()
                .find(|&depth| self.by_module.contains_key(&path[..depth]))?;
            let module = path[..depth].to_vec();
            let Some(name) = path.get(depth) else {
                return self.by_module.get(&module);
            };
            match self.handed_on.get(&(module.clone(), name.clone())) {
                Some(from) if *from != path => {
                    path = [from.clone(), path[depth + 1..].to_vec()].concat();
                }
                _ => return self.by_module.get(&module),
            }
        }
        None
    }

    /// The files that a file imports.
    fn imports(&self, file: &Path) -> BTreeSet<&PathBuf> {
        let Source { module, text } = &self.sources[file];
        let (declared, rest) = declarations(text);
        let used = declared.iter().filter(|(public, _)| !public);
        let children: Vec<&String> = (self.by_module.keys())
            .filter(|other| other.len() == module.len() + 1 && other.starts_with(module))
            .filter_map(|child| child.last())
            .collect();
        let named = rest
            .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
            .filter(|word| {
                children
                    .iter()
                    .any(|child| word.starts_with(&format!("{child}::")))
            })
            .map(|word| format!("self::{word}"));
        let paths = used
            .flat_map(|(_, tree)| spread(tree))
            .chain(paths_in(&rest))
            .chain(named);
        let files = paths.filter_map(|path| self.file(&self.absolute(module, &path)?));
        files.filter(|other| **other != *file).collect()
    }
}

/// The floor of the room that a file is in.
fn floor(path: &Path) -> Option<usize> {
    let first = path.iter().next()?.to_str()?;
    let room = first.strip_suffix(".rs").unwrap_or(first);
    FLOORS.iter().position(|floor| *floor == room)
}

#[test]
fn imports_between_rooms_run_downwards() {
    let house = House::new();
    let mut upwards = Vec::new();
    for file in house.sources.keys() {
        let Some(here) = floor(file) else {
            let first = file.iter().next().unwrap().to_str().unwrap();
            let room = first.strip_suffix(".rs").unwrap_or(first);
            assert!(
                ROOFS.contains(&room),
                "{room} has no floor in tests/suite/imports.rs"
            );
            continue;
        };
        for other in house.imports(file) {
            if floor(other).is_none_or(|there| there > here) {
                upwards.push(format!("{} -> {}", file.display(), other.display()));
            }
        }
    }
    assert!(
        upwards.is_empty(),
        "imports that run upwards:\n{}",
        upwards.join("\n")
    );
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let house = House::new();
    let imports: BTreeMap<&PathBuf, BTreeSet<&PathBuf>> = (house.sources.keys())
        .map(|file| {
            // A module may use what its parents define, who hold it together.
            let own = &house.sources[file].module;
            let mut others = house.imports(file);
            others.retain(|other| !own.starts_with(&house.sources[*other].module));
            (file, others)
        })
        .collect();
    let arrows: usize = imports.values().map(BTreeSet::len).sum();
    assert!(imports.len() > 200 && arrows > 800, "{arrows} imports");
    let reaches_itself = |file: &PathBuf| {
        let (mut seen, mut ahead) = (BTreeSet::new(), vec![file]);
        while let Some(next) = ahead.pop() {
            for &other in &imports[next] {
                if other == file {
                    return true;
                }
                if seen.insert(other) {
                    ahead.push(other);
                }
            }
        }
        false
    };
    let circle: BTreeSet<&PathBuf> = imports
        .keys()
        .copied()
        .filter(|file| reaches_itself(file))
        .collect();
    let shown: Vec<String> = (circle.iter())
        .map(|file| {
            let others = imports[file]
                .intersection(&circle)
                .map(|other| other.display().to_string());
            format!(
                "{} -> {}",
                file.display(),
                others.collect::<Vec<_>>().join(", ")
            )
        })
        .collect();
    assert!(circle.is_empty(), "files in circles:\n{}", shown.join("\n"));
}

#[test]
fn use_trees_are_spread() {
    assert_eq!(
        spread("crate::a::{self, b::{C, d as E}, F}"),
        [
            "crate::a",
            "crate::a::b::C",
            "crate::a::b::d",
            "crate::a::F"
        ]
    );
    let (declared, rest) =
        declarations("use a::{\n    B,\n    C,\n};\nfn f() {}\npub(crate) use d::E;");
    assert_eq!(
        declared,
        [(false, "a::{B, C, }".to_owned()), (true, "d::E".to_owned())]
    );
    assert_eq!(rest, "fn f() {}\n");
}
