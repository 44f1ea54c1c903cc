//! The Square attack: random search with squares, which needs no gradients.

mod euclidean;
mod maximum;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::euclidean::Euclidean;
use self::maximum::Maximum;
use super::algorithm::{Attack, above_zero};
use super::ball::{Ball, Norm};
use super::climb::Subject;
use super::victim::Victim;
use crate::error::{Error, Result};

/// Andriushchenko et al. 2020: a black-box attack.
///
/// Each query changes a square at a random position; the change stays if it raises the aim's margin. The
/// squares begin with 80% of the picture's area and become smaller on the authors' schedule, stretched to
/// `queries`. A picture is done with its first success; restarts are for the others. If the result will be
/// rounded to 8 bits, every query is rounded too, so that the stored picture is the one that succeeded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Square {
    /// Norm in which `eps` measures the change.
    pub norm: Norm,
    /// Radius in this norm, pixels in `[0, 1]`.
    pub eps: f32,
    /// Images that each restart may ask the victim about, at least 1.
    pub queries: usize,
    /// Searches for a picture, each with random numbers of its own, until one succeeds; at least 1.
    pub restarts: usize,
}

impl Square {
    /// The defaults of torchattacks; the radius in the Euclidean norm is that of its PGD, 1.
    pub fn new(norm: Norm) -> Self {
        Square {
            norm,
            eps: match norm {
                Norm::Linf => 8.0 / 255.0,
                Norm::L2 => 1.0,
            },
            queries: 5000,
            restarts: 1,
        }
    }
}

/// Area of the first squares as a share of the picture's.
const FIRST_AREA: f64 = 0.8;

/// The area is halved after these queries, if there are 10,000.
const HALVED_AFTER: [usize; 9] = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000];

/// Area of the squares of query `query` of `queries`, as a share of the picture's.
fn area(query: usize, queries: usize) -> f64 {
    let query = (query as u128 * 10_000 / queries.max(1) as u128) as usize;
    let halved = HALVED_AFTER.iter().filter(|&&after| query > after).count();
    FIRST_AREA / f64::from(1 << halved)
}

/// Proposes images inside the ball of a norm.
trait Proposals: Sync + Send {
    /// The first image of restart `run`.
    fn first(&self, subject: &Subject<'_>, run: usize) -> Vec<f32>;
    /// `image`, changed in a square whose area is the share `area` of the picture's.
    fn next(
        &self,
        subject: &Subject<'_>,
        run: usize,
        query: usize,
        area: f64,
        image: &[f32],
    ) -> Vec<f32>;
}

/// One picture's search.
struct Search<'a> {
    subject: &'a Subject<'a>,
    proposals: Box<dyn Proposals + 'a>,
    image: Vec<f32>,
    margin: f64,
    done: bool,
}

impl Attack for Square {
    fn validate(&self, _classes: usize, _targeted: bool) -> Result<()> {
        for (option, number) in [("queries", self.queries), ("restarts", self.restarts)] {
            if number == 0 {
                return Err(Error::option(option, "must be 1 or more"));
            }
        }
        above_zero("eps", self.eps)
    }

    fn ball(&self) -> Option<Ball> {
        Some(Ball {
            norm: self.norm,
            eps: self.eps,
        })
    }

    fn run(
        &self,
        victim: &mut dyn Victim,
        subjects: &[Subject<'_>],
        eight_bit: bool,
    ) -> Result<Vec<Vec<f32>>> {
        let search = |subject| Search {
            subject,
            proposals: match self.norm {
                Norm::Linf => Box::new(Maximum::new(subject, self.eps, eight_bit)),
                Norm::L2 => Box::new(Euclidean::new(self.eps, eight_bit)),
            },
            image: subject.clean().to_vec(),
            margin: f64::NEG_INFINITY,
            done: subject.aim.met(&subject.input),
        };
        let mut searches: Vec<Search<'_>> = subjects.iter().map(search).collect();
        for run in 0..self.restarts {
            for query in 0..self.queries {
                let mut open: Vec<_> = searches.iter_mut().filter(|s| !s.done).collect();
                if open.is_empty() {
                    return Ok(images(searches));
                }
                let area = area(query, self.queries);
                let propose = |search: &&mut Search<'_>| {
                    let Search {
                        subject, proposals, ..
                    } = search;
                    match query {
                        0 => proposals.first(subject, run),
                        _ => proposals.next(subject, run, query, area, &search.image),
                    }
                };
                let proposed: Vec<Vec<f32>> = open.par_iter().map(propose).collect();
                let views: Vec<&[f32]> = proposed.iter().map(|image| &image[..]).collect();
                let readings = victim.read(&views)?;
                for ((search, reading), image) in open.iter_mut().zip(readings).zip(proposed) {
                    let (aim, margin) = (search.subject.aim, search.subject.aim.margin(&reading));
                    search.done = aim.met(&reading);
                    if query == 0 || search.done || margin > search.margin {
                        (search.image, search.margin) = (image, margin);
                    }
                }
            }
        }
        Ok(images(searches))
    }
}

fn images(searches: Vec<Search<'_>>) -> Vec<Vec<f32>> {
    searches.into_iter().map(|search| search.image).collect()
}

/// The first `count` random numbers of a query, uniform in `[0, 1)`.
fn draw(subject: &Subject<'_>, run: usize, query: usize, count: usize) -> Vec<f32> {
    let mut drawn = vec![0.0; count];
    let purpose = crate::random::Purpose::AttackSearch;
    let key = subject.key(run);
    key.uniform(purpose, query as u32, count, |i, u| drawn[i] = u);
    drawn
}

/// Where `size` pixels start on an axis of `n`, for a random number `u` in `[0, 1)`.
fn position(u: f32, size: usize, n: usize) -> usize {
    let positions = n - size + 1;
    ((f64::from(u) * positions as f64) as usize).min(positions - 1)
}

/// −1 or 1, each for half of the random numbers in `[0, 1)`.
fn sign(u: f32) -> f32 {
    if u < 0.5 { -1.0 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_shrink_on_the_published_schedule() {
        for (query, halved) in [(0, 0), (10, 0), (11, 1), (51, 2), (501, 4), (8001, 9)] {
            assert_eq!(area(query, 10_000), 0.8 / f64::from(1 << halved), "{query}");
            // Half as many queries go through it twice as fast.
            assert_eq!(area(query / 2, 5_000), area(query / 2 * 2, 10_000));
        }
        assert_eq!(area(usize::MAX, usize::MAX), 0.8 / 512.0);
    }

    #[test]
    fn every_position_is_on_the_axis_and_all_are_reached() {
        for (size, n) in [(1, 1), (3, 3), (2, 5)] {
            let positions: std::collections::BTreeSet<usize> = (0..1000)
                .map(|i| position(i as f32 / 1000.0, size, n))
                .collect();
            assert_eq!(positions, (0..=n - size).collect());
        }
    }
}
