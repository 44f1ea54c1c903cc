//! Outputs that are inputs: refused before anything is written.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::claim::{ATTACKED, FILES, LOCK};
use super::pictures::IMAGES;
use crate::error::{Error, Result};
use crate::files::open_regular;

/// The outputs that a command writes or removes, to be compared with the files that it reads.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    outputs: Vec<Output>,
    /// The run's folder.
    run: Option<PathBuf>,
}

#[derive(Clone, Debug)]
struct Output {
    /// The option that names it.
    option: &'static str,
    /// As the user named it.
    name: PathBuf,
    real: Real,
    /// Whether it is everything in that folder.
    whole: bool,
}

/// A path without links.
#[derive(Clone, Debug)]
struct Real {
    /// The entry of its folder, which may be a link: what is replaced or removed.
    entry: PathBuf,
    /// Where that leads, if it is one: what is written to.
    target: Option<PathBuf>,
}

impl Outputs {
    /// With the file at `path`, which `option` names, where there is one.
    pub fn file(mut self, option: &'static str, path: Option<&Path>) -> Outputs {
        if let Some(path) = path {
            self.add(option, path.to_owned(), false);
        }
        self
    }

    /// With the files called `names` in the folder of the option `output`.
    pub fn files_in(mut self, folder: &Path, names: &[&str]) -> Outputs {
        for name in names {
            self.add("output", folder.join(name), false);
        }
        self
    }

    /// With everything that runs, of any command, write to or remove from their folder.
    pub fn run_folder(self, folder: &Path) -> Outputs {
        let mut outputs = self.files_in(folder, &FILES).files_in(folder, &[LOCK]);
        outputs.run = Some(resolved(folder));
        for pictures in [IMAGES, ATTACKED] {
            outputs.add("output", folder.join(pictures), true);
        }
        outputs
    }

    fn add(&mut self, option: &'static str, name: PathBuf, whole: bool) {
        let mut real = Folders::default().real(&name);
        // A link may be missing, or point to a missing file.
        real.target = real.target.or_else(|| Some(resolved(&name)));
        self.outputs.push(Output {
            option,
            name,
            real,
            whole,
        });
    }

    /// Refuses an output that is also one of the files `read`, and two outputs that are one file. If no output
    /// exists yet, `read` is not checked.
    ///
    /// # Errors
    /// The message names both.
    pub fn check<P: AsRef<Path>>(&self, read: impl IntoIterator<Item = P>) -> Result<()> {
        for (i, output) in self.outputs.iter().enumerate() {
            for other in &self.outputs[..i] {
                if output.option != other.option && output.meets(other) {
                    let both = format!("would be written over by {}", other.name.display());
                    let (one, two) = (other.option, output.option);
                    return Err(Error::file(&output.name, both)
                        .hint(format!("give `{one}` and `{two}` different places")));
                }
            }
        }
        let there = |output: &&Output| match output.whole {
            true => output.real.entry.is_dir(),
            false => output.real.entry.is_file() || output.real.entry.is_symlink(),
        };
        let there: Vec<&Output> = self.outputs.iter().filter(there).collect();
        if there.is_empty() {
            return Ok(());
        }
        let mut folders = Folders::default();
        for path in read {
            refuse(&there, path.as_ref(), &mut folders)?;
        }
        Ok(())
    }

    /// Refuses a folder of pictures that is to be the run's folder: the pictures would be hidden behind the run's.
    ///
    /// # Errors
    /// It is that folder.
    pub fn check_folder(&self, folder: &Path) -> Result<()> {
        match &self.run {
            Some(run) if folder.is_dir() && *run == resolved(folder) => {
                let message = "is the input, and would hold the run's outputs too";
                Err(Error::file(folder, message).hint("give `output` another place"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses outputs that standard input may turn out to name once it is too late: files that are images, the file
    /// that standard input itself is, and, where `removed`, a run's pictures.
    ///
    /// # Errors
    /// The message names the output.
    pub fn check_stream(&self, removed: bool) -> Result<()> {
        let own = same_file::Handle::stdin().ok();
        for output in &self.outputs {
            let path = &output.real.entry;
            let why = if output.whole {
                let holds_any = removed
                    && std::fs::read_dir(path).is_ok_and(|mut files| files.next().is_some());
                holds_any
                    .then_some("holds pictures that standard input may name, and would be removed")
            } else if !path.is_file() {
                None
            } else if own.is_some() && same_file::Handle::from_path(path).ok() == own {
                Some("is standard input, and would be written over")
            } else {
                is_image(path).then_some(
                    "is an image that standard input may name, and would be written over",
                )
            };
            if let Some(why) = why {
                let hint = format!("give `{}` another place", output.option);
                return Err(Error::file(&output.name, why).hint(hint));
            }
        }
        Ok(())
    }

    /// Refuses a file that is read, by itself.
    ///
    /// # Errors
    /// It is an output.
    pub fn check_one(&self, path: &Path) -> Result<()> {
        let all: Vec<&Output> = self.outputs.iter().collect();
        refuse(&all, path, &mut Folders::default())
    }
}

/// Whether a file starts as an image does.
fn is_image(path: &Path) -> bool {
    let mut start = Vec::new();
    let file = open_regular(path);
    let read = file.map(|file| file.take(64).read_to_end(&mut start).is_ok());
    read.is_ok_and(|read| read) && image::guess_format(&start).is_ok()
}

fn refuse(outputs: &[&Output], path: &Path, folders: &mut Folders) -> Result<()> {
    let read = folders.real(path);
    let Some(output) = outputs.iter().find(|output| output.holds(&read)) else {
        return Ok(());
    };
    let name = output.name.display();
    let message = match output.whole {
        true => format!("is read, and lies in {name}, where outputs are written and removed"),
        false => format!("is read, and would be written over by {name}"),
    };
    Err(Error::file(path, message).hint(format!("give `{}` another place", output.option)))
}

impl Output {
    /// Whether a file is this output or lies in it.
    fn holds(&self, file: &Real) -> bool {
        let mut pairs = self
            .real
            .paths()
            .flat_map(|own| file.paths().map(move |file| (own, file)));
        pairs.any(|(own, file)| own == file || self.whole && file.starts_with(own))
    }

    fn meets(&self, other: &Output) -> bool {
        self.holds(&other.real) || other.holds(&self.real)
    }
}

impl Real {
    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.entry).chain(&self.target)
    }
}

/// Folders without links, so that a million files cost one look each.
#[derive(Default)]
struct Folders {
    real: HashMap<PathBuf, PathBuf>,
}

impl Folders {
    fn real(&mut self, path: &Path) -> Real {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Real {
                entry: resolved(path),
                target: None,
            };
        };
        let folder = match self.real.get(folder) {
            Some(real) => real,
            None => {
                let real = resolved(folder);
                self.real.entry(folder.to_owned()).or_insert(real)
            }
        };
        Real {
            entry: folder.join(name),
            target: path.is_symlink().then(|| resolved(path)),
        }
    }
}

/// A path with links and `..` resolved; parts that do not exist stay as they are written.
fn resolved(path: &Path) -> PathBuf {
    let path = match path == Path::new("") {
        true => Path::new("."),
        false => path,
    };
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in absolute.ancestors() {
        if let Ok(mut real) = ancestor.canonicalize() {
            let rest = absolute.strip_prefix(ancestor).unwrap_or(Path::new(""));
            for part in rest.components() {
                match part {
                    Component::ParentDir => drop(real.pop()),
                    part => real.push(part),
                }
            }
            return real;
        }
    }
    absolute
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Folders `data/images` with `0.png`, and `other` with `1.png`.
    fn files() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in ["data/images/0.png", "other/1.png"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        folder
    }

    #[test]
    fn a_run_folder_holds_its_pictures_and_files_alone() {
        let folder = files();
        let at = |name: &str| folder.path().join(name);
        let run = |out: &str| Outputs::default().run_folder(&at(out));
        let input = at("data/images/0.png");
        let said = run("data").check([&input]).unwrap_err().to_string();
        for name in [&input, &at("data/images")] {
            assert!(said.contains(name.to_str().unwrap()), "{said}");
        }
        assert!(said.contains("`output`"), "{said}");
        for out in ["data/images", "data/new", "other", "new/deep"] {
            run(out).check([&input]).unwrap();
        }
        // A folder that is not there yet leads where creating it would.
        assert!(run("data/new/..").check([&input]).is_err());
        std::fs::write(at("data/run.json"), "").unwrap();
        assert!(run("data").check([at("data/run.json")]).is_err());
        run("data").check([at("data/mine.json")]).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn links_are_seen_through_on_both_sides() {
        use std::os::unix::fs::symlink;
        let folder = files();
        let at = |name: &str| folder.path().join(name);
        let run = |out: &str| Outputs::default().run_folder(&at(out));
        symlink(at("data"), at("again")).unwrap();
        assert!(run("again").check([at("data/images/0.png")]).is_err());
        assert!(run("data").check([at("again/images/0.png")]).is_err());
        symlink(at("data/images/0.png"), at("other/link.png")).unwrap();
        assert!(run("data").check([at("other/link.png")]).is_err());
        // The run's own folder of pictures is a link to the inputs.
        std::fs::create_dir(at("out")).unwrap();
        symlink(at("other"), at("out/images")).unwrap();
        assert!(run("out").check([at("other/1.png")]).is_err());
        // To replace a link is to lose an input, though not the picture itself.
        let link = at("other/link.png");
        let file = |path| Outputs::default().file("logits", Some(path));
        assert!(file(&link).check([&link]).is_err());
        assert!(file(&link).check([at("data/images/0.png")]).is_err());
        file(&link).check([at("other/1.png")]).unwrap();
    }

    #[test]
    fn outputs_must_not_be_each_other() {
        let folder = files();
        let at = |name: &str| folder.path().join(name);
        let check = |jsonl: &str, metrics: &str| {
            let outputs = Outputs::default().run_folder(&at("out"));
            let outputs = outputs.file("jsonl", Some(&at(jsonl)));
            outputs
                .file("metrics", Some(&at(metrics)))
                .check::<PathBuf>([])
        };
        check("out/all.jsonl", "m.prom").unwrap();
        for (jsonl, metrics) in [
            ("x", "x"),
            ("out/results.jsonl", "m"),
            ("j", "out/images/m"),
            ("j", "new/../j"),
        ] {
            let said = check(jsonl, metrics).unwrap_err().to_string();
            assert!(said.contains("different places"), "{said}");
        }
    }
}
