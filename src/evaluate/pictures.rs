//! The pictures of an evaluation, from data sets and from sets that others attacked.

use std::collections::HashMap;

use super::case::Case;
use crate::error::{Error, Result};
use crate::input::{Attacked, AttackedSet, Item};
use crate::picture::Picture;

/// A picture, with where it and its attacked versions are.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The picture's id, unique among the evaluation's pictures.
    pub id: String,
    /// The picture in the data set; `None` if only sets of attacked pictures have it. Such a picture is not
    /// attacked here.
    pub item: Option<Item>,
    /// Its versions that others attacked.
    pub given: Vec<Given>,
}

/// A picture that others attacked.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// The case's name.
    pub case: String,
    /// Index of the set of attacked pictures, from 0.
    pub set: usize,
    /// The picture's index in the set, from 0.
    pub index: usize,
}

/// Reads pictures in the classifier's size.
pub trait Load: Sync {
    /// A picture of the data set.
    ///
    /// # Errors
    /// It is missing or damaged.
    fn item(&self, item: &Item) -> Result<Picture>;
    /// An attacked picture, and its clean counterpart where there is one.
    ///
    /// # Errors
    /// One is missing or damaged, or has another size than the classifier takes.
    fn given(&self, given: &Given) -> Result<Attacked>;
}

impl Entry {
    /// Whether `case` has this picture.
    pub fn has(&self, case: &Case) -> bool {
        match case.is_given() {
            true => self.given.iter().any(|given| given.case == case.name),
            false => self.item.is_some() || case.is_clean(),
        }
    }
}

/// The pictures of a data set, then those that only the sets have, and the sets' cases.
///
/// A set's picture belongs to the picture whose id is its own without the attack's folder: `pgd/a/x.png`
/// belongs to `a/x.png`.
///
/// # Errors
/// A picture has two versions of one attack.
pub fn entries(
    items: impl Iterator<Item = Item>,
    sets: &[AttackedSet],
) -> Result<(Vec<Entry>, Vec<Case>)> {
    let mut entries: Vec<Entry> = items
        .map(|item| Entry {
            id: item.id.clone(),
            item: Some(item),
            given: Vec::new(),
        })
        .collect();
    let mut places: HashMap<String, usize> = entries
        .iter()
        .enumerate()
        .map(|(place, entry)| (entry.id.clone(), place))
        .collect();
    let mut cases: Vec<Case> = Vec::new();
    for (set, attacked) in sets.iter().enumerate() {
        for index in 0..attacked.len() {
            let case = Case::given(attacked.attack(index));
            let id = without_folder(attacked.id(index), attacked.attack(index));
            let place = *places.entry(id.to_owned()).or_insert_with(|| {
                entries.push(Entry {
                    id: id.to_owned(),
                    item: None,
                    given: Vec::new(),
                });
                entries.len() - 1
            });
            let given = &mut entries[place].given;
            if given.iter().any(|other| other.case == case.name) {
                return Err(Error::file(
                    attacked.id(index),
                    format!(
                        "{} is given for {id} a second time; give each picture and attack once",
                        attacked.attack(index)
                    ),
                ));
            }
            given.push(Given {
                case: case.name.clone(),
                set,
                index,
            });
            if !cases.iter().any(|other| other.name == case.name) {
                cases.push(case);
            }
        }
    }
    Ok((entries, cases))
}

/// The first `limit` pictures of the data set, and of each attack that others made the first `limit`: those of
/// one do not take the places of another's.
pub fn first(mut entries: Vec<Entry>, limit: usize) -> Vec<Entry> {
    let mut in_dataset = 0;
    let mut of_case: HashMap<String, usize> = HashMap::new();
    entries.retain(|entry| {
        let count = |given: &Given| of_case.get(&given.case).copied().unwrap_or(0);
        let wanted = (entry.item.is_some() && in_dataset < limit)
            || entry.given.iter().any(|given| count(given) < limit);
        if wanted {
            in_dataset += usize::from(entry.item.is_some());
            for given in &entry.given {
                *of_case.entry(given.case.clone()).or_default() += 1;
            }
        }
        wanted
    });
    entries
}

/// An id without the attack's folder and the folders above it.
fn without_folder<'i>(id: &'i str, attack: &str) -> &'i str {
    let folder = format!("{attack}/");
    let start = match id.starts_with(&folder) {
        true => Some(folder.len()),
        false => id
            .find(&format!("/{folder}"))
            .map(|at| at + 1 + folder.len()),
    };
    start
        .map(|start| &id[start..])
        .filter(|rest| !rest.is_empty())
        .unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_counts_the_data_set_and_each_attack_apart() {
        let entry = |id: &str, cases: &[&str]| Entry {
            id: id.into(),
            item: None,
            given: cases
                .iter()
                .map(|case| Given {
                    case: (*case).into(),
                    set: 0,
                    index: 0,
                })
                .collect(),
        };
        let all = vec![
            entry("a", &["pgd"]),
            entry("b", &["pgd"]),
            entry("c", &["pgd", "cw"]),
            entry("d", &["cw"]),
            entry("e", &["cw"]),
            entry("f", &["square"]),
        ];
        let kept: Vec<String> = first(all, 2).into_iter().map(|entry| entry.id).collect();
        assert_eq!(kept, ["a", "b", "c", "d", "f"]);
    }

    #[test]
    fn attacked_pictures_belong_to_what_they_were() {
        for (id, attack, expected) in [
            ("pgd/a/x.png", "pgd", "a/x.png"),
            ("attacked/pgd/a/x.png", "pgd", "a/x.png"),
            ("mypgd/x.png", "pgd", "mypgd/x.png"),
            ("adv.npz#3", "adv", "adv.npz#3"),
            ("pgd/", "pgd", "pgd/"),
        ] {
            assert_eq!(without_folder(id, attack), expected, "{id}");
        }
    }
}
