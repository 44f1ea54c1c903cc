//! Stage D: the on-boundary image of each cross-boundary pair.

use crate::backend::{At, Blend, ClassifierEngine, ImageOps};
use crate::error::{Error, Result};

use super::probe::MAX_POINTS;
use super::{Prober, Reading};

/// How the boundary is searched for.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LocalizeOptions {
    /// Points probed between a pair in each round, at least 1; a round divides the interval by `fan + 1`.
    pub fan: usize,
    /// Length of the interval, as a share of the whole segment, at which the search ends; in `[1e-6, 1]`. If
    /// the reconstruction has a PSNR of 20 dB, the default is a fifth of a level of an 8-bit picture (root mean
    /// square); the better the reconstruction, the less.
    pub tolerance: f32,
}

impl Default for LocalizeOptions {
    fn default() -> Self {
        LocalizeOptions {
            fan: 3,
            tolerance: 1.0 / 128.0,
        }
    }
}

impl LocalizeOptions {
    /// Checks every number.
    pub fn validate(&self) -> Result<()> {
        if self.fan == 0 || self.fan > MAX_POINTS {
            let wrong = format!("must be 1 to {MAX_POINTS} points a round, not {}", self.fan);
            return Err(Error::option("fan", wrong));
        }
        // At distances below 2^-20, two blends in float32 are the same picture.
        if !(1e-6..=1.0).contains(&self.tolerance) {
            let wrong = format!("must be in [1e-6, 1], not {}", self.tolerance);
            return Err(Error::option("tolerance", wrong));
        }
        Ok(())
    }
}

/// A pair to search between: two points of the line between two images on the device.
pub(super) struct Search<'a, I> {
    pub from: At<'a, I>,
    pub to: At<'a, I>,
    /// Positions of the pair on the line; the first point has the label `label`, the second has not.
    pub span: (f32, f32),
    pub label: usize,
}

impl<'a, I> Search<'a, I> {
    /// The position on the line of the point at `alpha` between the pair.
    fn place(&self, alpha: f32) -> f32 {
        self.span.0 + alpha * (self.span.1 - self.span.0)
    }

    /// The point of the line at position `t`, as an image to make.
    pub(super) fn point(&self, t: f32) -> Blend<'a, I> {
        Blend {
            from: self.from,
            to: self.to,
            t,
        }
    }
}

/// The on-boundary image that a search found.
#[derive(Clone, Debug)]
pub struct Boundary {
    /// Where it lies between the pair: 0 at the first point, of the recovered label, 1 at the second.
    pub alpha: f32,
    /// Its position on the line.
    pub t: f32,
    /// Label of the next point that was probed towards the pair's second point, at most the tolerance away;
    /// `None` if no point between was probed.
    pub neighbor: Option<usize>,
}

/// The interval that contains the boundary: 0 at the pair's first point, 1 at its second.
struct Interval {
    inner: f32,
    outer: f32,
    neighbor: Option<usize>,
}

impl Interval {
    /// The whole interval between the pair.
    const WHOLE: Interval = Interval {
        inner: 0.0,
        outer: 1.0,
        neighbor: None,
    };

    /// Its length as a share of the line on which the pair's positions are `span`.
    fn length(&self, span: (f32, f32)) -> f32 {
        (self.outer - self.inner) * (span.1 - span.0)
    }
}

/// Finds each pair's last point of the recovered label by K-section; a round of probes is for all pairs
/// together.
///
/// The line may cross the boundary several times, so each round keeps the last point of the label: the
/// result was itself classified as the label, and the next point as another.
pub(super) fn localize<O: ImageOps, C: ClassifierEngine<Images = O::Images>>(
    prober: &mut Prober<O, C>,
    options: &LocalizeOptions,
    searches: &[Search<'_, O::Images>],
) -> Result<Vec<Boundary>> {
    let mut intervals: Vec<Interval> = searches.iter().map(|_| Interval::WHOLE).collect();
    loop {
        let open: Vec<usize> = (0..searches.len())
            .filter(|&i| intervals[i].length(searches[i].span) > options.tolerance)
            .collect();
        if open.is_empty() {
            break;
        }
        let mut jobs = Vec::with_capacity(open.len() * options.fan);
        for &i in &open {
            let (search, interval) = (&searches[i], &intervals[i]);
            let alphas = alphas(interval, options.fan);
            jobs.extend(alphas.map(|alpha| search.point(search.place(alpha))));
        }
        let readings = prober.blends(&jobs)?;
        for (&i, readings) in open.iter().zip(readings.chunks_exact(options.fan)) {
            narrow(&mut intervals[i], readings, searches[i].label);
        }
    }
    Ok(searches
        .iter()
        .zip(intervals)
        .map(|(search, interval)| Boundary {
            alpha: interval.inner,
            t: search.place(interval.inner),
            neighbor: interval.neighbor,
        })
        .collect())
}

/// The points of a round: evenly spaced inside the interval.
fn alphas(interval: &Interval, fan: usize) -> impl Iterator<Item = f32> {
    let (inner, length) = (interval.inner, interval.outer - interval.inner);
    (1..=fan).map(move |k| inner + length * (k as f32 / (fan + 1) as f32))
}

/// Shrinks the interval to the last point of `label` and its outer neighbor.
fn narrow(interval: &mut Interval, readings: &[Reading], label: usize) {
    let alphas: Vec<f32> = alphas(interval, readings.len()).collect();
    let last = readings
        .iter()
        .rposition(|reading| reading.label() == label);
    let next = last.map_or(0, |last| last + 1);
    if let Some(last) = last {
        interval.inner = alphas[last];
    }
    if let Some(reading) = readings.get(next) {
        interval.outer = alphas[next];
        interval.neighbor = Some(reading.label());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the rounds against a function of α in place of a classifier, to 1/256 of a line on which the
    /// pair lies at `span`.
    fn search_at(span: (f32, f32), fan: usize, class: impl Fn(f32) -> usize) -> Interval {
        let mut interval = Interval::WHOLE;
        while interval.length(span) > 1.0 / 256.0 {
            let readings: Vec<Reading> = alphas(&interval, fan)
                .map(|alpha| {
                    let mut logits = [0.0; 3];
                    logits[class(alpha)] = 1.0;
                    Reading::new(&logits)
                })
                .collect();
            narrow(&mut interval, &readings, 1);
        }
        interval
    }

    fn search(fan: usize, class: impl Fn(f32) -> usize) -> Interval {
        search_at((0.0, 1.0), fan, class)
    }

    #[test]
    fn a_close_pair_is_searched_no_finer_than_the_line() {
        let class = |alpha: f32| usize::from(alpha <= 0.3);
        let interval = search_at((0.5, 0.515625), 3, class);
        assert_eq!((interval.inner, interval.outer), (0.25, 0.5));
        let found = search_at((0.25, 0.25 + 1.0 / 512.0), 3, class);
        assert_eq!((found.inner, found.neighbor), (0.0, None));
    }

    #[test]
    fn finds_a_single_boundary_to_the_tolerance() {
        for fan in [1, 2, 3, 7, 300] {
            for at in [0.0, 0.001, 0.37, 0.5, 0.999, 1.0] {
                let interval = search(fan, |alpha| if alpha <= at { 1 } else { 0 });
                assert!(
                    interval.inner <= at && at - interval.inner <= 1.0 / 256.0,
                    "fan {fan}, boundary {at}: {}",
                    interval.inner
                );
            }
        }
    }

    #[test]
    fn ends_on_a_point_of_the_label_where_classes_are_not_monotone() {
        let class = |alpha: f32| match alpha {
            a if a < 0.3 => 1,
            a if a < 0.5 => 2,
            a if a < 0.6 => 1,
            _ => 0,
        };
        for fan in [1, 2, 3, 15] {
            let interval = search(fan, class);
            assert_eq!(class(interval.inner), 1, "fan {fan}");
            assert_ne!(class(interval.outer), 1, "fan {fan}");
        }
        // Enough points to see both boundaries: the outer one counts.
        assert!((search(15, class).inner - 0.6).abs() < 1.0 / 256.0);
    }
}
