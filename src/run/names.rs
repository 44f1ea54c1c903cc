//! Names of output files, from the pictures' ids.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::input::folder::is_picture;
use crate::input::names::numbered;

/// The path of each picture's output, relative to `OUT/images`.
///
/// An output's path is the picture's id with the extension of the output's format; pictures of arrays are
/// `batch/000017.png`. If several pictures would have the same path, it goes to the picture whose id is that
/// path, or else to the first in the list; the others keep their own extension too (`x.jpg.png`), with a
/// number if that path is taken as well.
#[derive(Debug)]
pub struct OutputNames {
    form: Form,
    /// Whether the pictures are a stream, whose ids are not known in advance.
    stream: bool,
    /// The names of pictures whose first choice was taken, by id.
    moved: HashMap<String, String>,
}

/// The format of output names.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// The extension without its dot.
    pub extension: &'static str,
    /// Whether the name is for WebDataset: the part before the extension, its key, must have no dots.
    pub key: bool,
}

impl OutputNames {
    /// Names for the pictures called `ids`. The same ids in the same order give the same names.
    pub fn new<I: Iterator<Item = String>>(ids: impl Fn() -> I, form: Form) -> OutputNames {
        let mut names = OutputNames {
            form,
            stream: false,
            moved: HashMap::new(),
        };
        // Hashes, so that a million names need little memory. Different names with equal hashes only give a
        // picture another name without need.
        let contested = repeated(ids().map(|id| xxh3_64(names.natural(&id).as_bytes())));
        if contested.is_empty() {
            return names;
        }
        let mut taken = HashSet::new();
        let mut owners: HashMap<u64, String> = HashMap::new();
        for id in ids() {
            let natural = names.natural(&id);
            let name = xxh3_64(natural.as_bytes());
            taken.insert(name);
            if contested.contains(&name) && (natural == id || !owners.contains_key(&name)) {
                owners.insert(name, id);
            }
        }
        for id in ids() {
            let name = xxh3_64(names.natural(&id).as_bytes());
            if owners.get(&name).is_none_or(|owner| *owner == id) {
                continue;
            }
            let own = form.named(safe(&id));
            let free = (1..)
                .map(|n| {
                    if n == 1 {
                        own.clone()
                    } else {
                        numbered(&own, n)
                    }
                })
                .find(|name| taken.insert(xxh3_64(name.as_bytes())))
                .expect("some number is free");
            names.moved.insert(id, free);
        }
        names
    }

    /// Names for a stream. Each depends on its id only: the id, then the output's extension, `x.jpg.png` (but
    /// `x.png` for `x.png`). If another id could have the same name, the name contains the id's hash.
    pub fn of_stream(form: Form) -> OutputNames {
        OutputNames {
            form,
            stream: true,
            moved: HashMap::new(),
        }
    }

    /// The output's path for the picture called `id`, relative to `OUT/images`.
    pub fn path(&self, id: &str) -> PathBuf {
        match self.moved.get(id) {
            Some(name) => name.into(),
            None if self.stream => self.alone(id).into(),
            None => self.natural(id).into(),
        }
    }

    /// The name that an id has in a list if no other id has the same.
    fn natural(&self, id: &str) -> String {
        if let Some((array, row)) = id.rsplit_once('#')
            && let Ok(row) = row.parse::<usize>()
        {
            let folder = Path::new(array).with_extension("");
            let folder = safe(&folder.to_string_lossy());
            return self.form.named(format!("{folder}/{row:06}"));
        }
        let mut name = safe(id);
        if let Some(stem) = stem_of_picture(&name) {
            name.truncate(stem.len());
        }
        self.form.named(name)
    }

    /// A name for an id that does not depend on other ids.
    fn alone(&self, id: &str) -> String {
        let mut name = safe(id);
        let own = format!(".{}", self.form.extension);
        let stem = name.strip_suffix(&own).map(str::to_owned);
        let unique = name == id
            && !self.form.key
            && match &stem {
                Some(stem) => stem_of_picture(stem).is_none(),
                None => stem_of_picture(&name).is_some(),
            };
        if let Some(stem) = stem {
            name = stem;
        }
        if !unique {
            name = format!("{name}~{:016x}", xxh3_64(id.as_bytes()));
        }
        self.form.named(name)
    }
}

impl Form {
    /// A name of this format that starts with `stem`.
    fn named(self, stem: String) -> String {
        let Form { extension, key } = self;
        let file = stem.rfind('/').map_or(0, |slash| slash + 1);
        match key {
            true => {
                let (folder, file) = stem.split_at(file);
                format!("{folder}{}.{extension}", file.replace('.', "_"))
            }
            false => format!("{stem}.{extension}"),
        }
    }
}

/// The values that occur more than once.
fn repeated(values: impl Iterator<Item = u64>) -> HashSet<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    let pairs = values.windows(2).filter(|pair| pair[0] == pair[1]);
    pairs.map(|pair| pair[0]).collect()
}

/// The name without its extension; `None` if it is not the name of a picture.
fn stem_of_picture(name: &str) -> Option<&str> {
    let (stem, _) = name.rsplit_once('.')?;
    (is_picture(Path::new(name)) && !stem.ends_with('/')).then_some(stem)
}

/// `name` as a relative path that stays inside its folder: no root, no `..`, no control characters.
fn safe(name: &str) -> String {
    let parts: Vec<String> = Path::new(name)
        .components()
        .filter_map(|part| match part {
            Component::Normal(part) => Some(part.to_string_lossy()),
            _ => None,
        })
        .map(|part| part.replace(|c: char| c.is_control() || c == '\\' || c == ':', "_"))
        .collect();
    if parts.is_empty() {
        return "picture".into();
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ids: &[&str]) -> Vec<String> {
        let names = OutputNames::new(|| ids.iter().map(|id| id.to_string()), PNG);
        paths(&names, ids)
    }

    const PNG: Form = Form {
        extension: "png",
        key: false,
    };

    fn paths(names: &OutputNames, ids: &[&str]) -> Vec<String> {
        let path = |id: &&str| names.path(id).to_str().unwrap().to_owned();
        ids.iter().map(path).collect()
    }

    #[test]
    fn keys_have_no_dots() {
        let form = Form { key: true, ..PNG };
        let ids = ["v1.0/a.b.JPEG", "v1.0/a_b.png", ".h.png", "x.npy#3"];
        let names = OutputNames::new(|| ids.iter().map(|id| id.to_string()), form);
        assert_eq!(
            paths(&names, &ids),
            [
                "v1.0/a_b_JPEG.png",
                "v1.0/a_b.png",
                "_h.png",
                "x/000003.png"
            ]
        );
    }

    #[test]
    fn names_in_a_stream_need_no_list() {
        let names = OutputNames::of_stream(PNG);
        let ids = ["a/x.png", "a/x.jpg", "d"];
        let [same, behind, hashed] = &paths(&names, &ids)[..] else {
            panic!("three names");
        };
        assert_eq!((same.as_str(), behind.as_str()), ("a/x.png", "a/x.jpg.png"));
        assert!(
            hashed.starts_with("d~") && hashed.ends_with(".png"),
            "{hashed}"
        );
        let ids = [
            "a/x.png",
            "a/x.jpg",
            "a/x.jpg.png",
            "../a/x.png",
            "/a/x.png",
            "d",
            "d.png",
            "a:b.jpg",
            "a_b.jpg",
            "e.npy",
            "e.npy.png",
        ];
        let different: HashSet<String> = paths(&names, &ids).into_iter().collect();
        assert_eq!(different.len(), ids.len(), "{different:?}");
    }

    #[test]
    fn outputs_mirror_the_input_tree() {
        assert_eq!(
            names(&[
                "a/b.png",
                "a/c.JPG",
                "d",
                "v1.5/e",
                "batch.npy#17",
                "x/y.bin#1234567"
            ]),
            [
                "a/b.png",
                "a/c.png",
                "d.png",
                "v1.5/e.png",
                "batch/000017.png",
                "x/y/1234567.png"
            ]
        );
    }

    #[test]
    fn names_never_leave_the_folder() {
        assert_eq!(
            names(&[
                "../../etc/x.png",
                "/abs/y.png",
                "..",
                "a\n\u{1b}.png",
                "b/../c.png"
            ]),
            [
                "etc/x.png",
                "abs/y.png",
                "picture.png",
                "a__.png",
                "b/c.png"
            ]
        );
    }

    #[test]
    fn collisions_resolve_by_the_list_alone() {
        assert_eq!(
            names(&["a.jpg", "a.png", "a.gif", "a.jpg.png"]),
            ["a.jpg~2.png", "a.png", "a.gif.png", "a.jpg.png"]
        );
        assert_eq!(names(&["b.jpg", "b.bmp"]), ["b.png", "b.bmp.png"]);
        assert_eq!(
            names(&["../c.png", "c.png"]),
            ["../c.png", "c.png"].map(|id| match id {
                "c.png" => "c.png".to_owned(),
                _ => "c.png.png".to_owned(),
            })
        );
    }
}
