//! An evaluation's cells by attack and picture, and counts over them.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::case::Case;
use super::cell::Cell;
use super::row::Row;
use super::statistics::Proportion;

/// What a summary is computed from.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    /// Every result so far: one cell for each picture and attack.
    pub cells: &'a [Cell],
    /// The attacks, the clean pictures first.
    pub cases: &'a [Case],
    /// The defenses, in the order of the table's rows.
    pub rows: &'a [Row],
    /// The pictures' ids, in order.
    pub order: &'a [String],
    /// Number of the classifier's classes.
    pub classes: usize,
}

/// Cells by attack and picture.
pub(super) struct View<'a> {
    pub cases: &'a [Case],
    pub rows: &'a [Row],
    pub classes: usize,
    /// The cells of each attack, in the pictures' order.
    cells: HashMap<&'a str, Vec<&'a Cell>>,
}

/// The results of two attacks against one defense, on the pictures that have both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Paired {
    pub pictures: usize,
    /// Pictures with their true label under the first attack, and under the second.
    pub right: [usize; 2],
    /// Pictures that are wrong under the first attack only, and under the second only.
    pub only_wrong: [usize; 2],
}

impl<'a> View<'a> {
    pub(super) fn new(source: &Source<'a>) -> View<'a> {
        let place: HashMap<&str, usize> = source
            .order
            .iter()
            .enumerate()
            .map(|(place, id)| (id.as_str(), place))
            .collect();
        let mut cells: HashMap<&str, Vec<&Cell>> = HashMap::new();
        for cell in source.cells {
            if cell.excluded.is_none() && cell.error.is_none() {
                cells.entry(&cell.attack).or_default().push(cell);
            }
        }
        for of_attack in cells.values_mut() {
            of_attack.sort_by_key(|cell| place.get(cell.image.as_str()).copied());
        }
        View {
            cases: source.cases,
            rows: source.rows,
            classes: source.classes,
            cells,
        }
    }

    /// An attack's cells, in the pictures' order.
    pub(super) fn cells(&self, attack: &str) -> &[&'a Cell] {
        self.cells.get(attack).map_or(&[], Vec::as_slice)
    }

    /// How many pictures have their true label under an attack, with a defense.
    pub(super) fn right(&self, attack: &str, defense: &str) -> Proportion {
        Proportion::of(
            self.cells(attack)
                .iter()
                .filter_map(|c| c.is_right(defense)),
        )
    }

    /// Compares two attacks against one defense.
    pub(super) fn paired(&self, attacks: [&str; 2], defense: &str) -> Paired {
        let second: HashMap<&str, bool> = self
            .cells(attacks[1])
            .iter()
            .filter_map(|cell| Some((cell.image.as_str(), cell.is_right(defense)?)))
            .collect();
        let mut paired = Paired::default();
        for cell in self.cells(attacks[0]) {
            let (Some(a), Some(&b)) = (cell.is_right(defense), second.get(cell.image.as_str()))
            else {
                continue;
            };
            paired.pictures += 1;
            paired.right[0] += usize::from(a);
            paired.right[1] += usize::from(b);
            paired.only_wrong[0] += usize::from(!a && b);
            paired.only_wrong[1] += usize::from(a && !b);
        }
        paired
    }

    /// For each picture that has all of `attacks`: whether it has its true label when clean, and under each of them.
    ///
    /// A picture whose clean version is not known counts as right when clean.
    pub(super) fn rights(&self, attacks: &[&Case], defense: &str) -> Vec<Vec<bool>> {
        let clean = Case::clean();
        let mut all: HashMap<&str, Vec<bool>> = self
            .cells(&clean.name)
            .iter()
            .map(|cell| (&cell.image[..], vec![cell.is_right(defense) != Some(false)]))
            .collect();
        for case in attacks {
            for cell in self.cells(&case.name) {
                let rights = all.get_mut(&cell.image[..]);
                if let (Some(rights), Some(right)) = (rights, cell.is_right(defense)) {
                    rights.push(right);
                }
            }
        }
        let whole = |rights: &Vec<bool>| rights.len() == 1 + attacks.len();
        all.into_values().filter(whole).collect()
    }

    /// How many pictures have their true label when clean and under all of `attacks`, of those that have all attacks.
    pub(super) fn worst(&self, attacks: &[&Case], defense: &str) -> Proportion {
        let rights = self.rights(attacks, defense);
        Proportion::of(
            rights
                .iter()
                .map(|rights| rights.iter().all(|right| *right)),
        )
    }

    /// A number of each defense, by the defense's name.
    pub(super) fn by_defense<T>(&self, number: impl Fn(&str) -> T) -> BTreeMap<String, T> {
        let of = |row: &Row| (row.name.clone(), number(&row.name));
        self.rows.iter().map(of).collect()
    }
}
