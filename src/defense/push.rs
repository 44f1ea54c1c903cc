//! Stage E: on-boundary images are pushed away from the input and become on-manifold images.

use crate::backend::{At, ClassifierEngine, ImageOps, Push};
use crate::error::{Error, Result};

use super::Prober;

/// How far on-boundary images are pushed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PushOptions {
    /// The strengths β to choose from, at least 0 and rising: lengths of the push in distances of the
    /// on-boundary image from the input.
    pub strengths: Vec<f32>,
    /// Margin of the recovered label that is wanted, in logits: the smallest strength that reaches it is
    /// chosen, or the one with the largest margin if none does.
    pub margin: f64,
}

impl Default for PushOptions {
    fn default() -> Self {
        PushOptions {
            strengths: vec![0.0, 0.125, 0.25, 0.5, 1.0, 2.0],
            margin: 1.0,
        }
    }
}

impl PushOptions {
    /// Checks every number.
    pub fn validate(&self) -> Result<()> {
        let usable = |beta: &f32| beta.is_finite() && *beta >= 0.0;
        if self.strengths.is_empty()
            || !self.strengths.iter().all(usable)
            || !self.strengths.is_sorted()
        {
            return Err(Error::option(
                "push",
                "must be one or more numbers from 0 on, in rising order",
            ));
        }
        if !self.margin.is_finite() {
            return Err(Error::option("margin", "must be a number"));
        }
        Ok(())
    }
}

/// An on-boundary image to push.
pub(super) struct OnBoundary<'a, I> {
    pub boundary: At<'a, I>,
    pub input: At<'a, I>,
    /// The recovered label.
    pub label: usize,
}

impl<'a, I> OnBoundary<'a, I> {
    /// The image pushed with strength `beta`, as an image to make.
    pub(super) fn pushed(&self, beta: f32) -> Push<'a, I> {
        Push {
            boundary: self.boundary,
            input: self.input,
            beta,
        }
    }
}

/// The push that was chosen for an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChosenPush {
    /// Length of the step, in distances of the on-boundary image from the input; at least 0.
    pub beta: f32,
    /// Margin of the recovered label at the pushed image, in logits.
    pub margin: f64,
}

/// Strengths that are tried in one round; for most images the first round suffices.
pub(super) const STRENGTHS_PER_BATCH: usize = 2;

/// Chooses each image's β: the smallest strength whose margin reaches the wanted one, else the one with the
/// largest margin. A round tries a few strengths for all images together.
pub(super) fn push<O: ImageOps, C: ClassifierEngine<Images = O::Images>>(
    prober: &mut Prober<O, C>,
    options: &PushOptions,
    images: &[OnBoundary<'_, O::Images>],
) -> Result<Vec<ChosenPush>> {
    let mut chosen: Vec<Option<ChosenPush>> = vec![None; images.len()];
    for strengths in options.strengths.chunks(STRENGTHS_PER_BATCH) {
        let reached = |push: ChosenPush| push.margin >= options.margin;
        let open = (0..images.len()).filter(|&i| !chosen[i].is_some_and(reached));
        let open: Vec<usize> = open.collect();
        let pushed = |&i: &usize| strengths.iter().map(move |&beta| images[i].pushed(beta));
        let jobs: Vec<_> = open.iter().flat_map(pushed).collect();
        let readings = prober.pushes(&jobs)?;
        for (&i, readings) in open.iter().zip(readings.chunks_exact(strengths.len())) {
            let tried = strengths
                .iter()
                .zip(readings)
                .map(|(&beta, reading)| ChosenPush {
                    beta,
                    margin: reading.margin(images[i].label),
                });
            let tried = chosen[i].into_iter().chain(tried);
            chosen[i] = choose(tried, |push| push.margin, options.margin);
        }
    }
    let chosen = chosen.into_iter();
    Ok(chosen
        .map(|push| push.expect("options hold at least one strength"))
        .collect())
}

/// The first of `tried` whose margin reaches `wanted`, else the one with the largest margin.
pub(super) fn choose<T: Copy>(
    tried: impl IntoIterator<Item = T>,
    margin: impl Fn(&T) -> f64,
    wanted: f64,
) -> Option<T> {
    let mut best: Option<T> = None;
    for one in tried {
        if margin(&one) >= wanted {
            return Some(one);
        }
        if best.is_none_or(|best| margin(&one) > margin(&best)) {
            best = Some(one);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_smallest_sufficient_strength_else_the_best() {
        let pushes = [(0.0, 0.1), (0.5, 2.0), (1.0, 3.0), (2.0, 1.0)]
            .map(|(beta, margin)| ChosenPush { beta, margin });
        let margin = |push: &ChosenPush| push.margin;
        let beta = |wanted| choose(pushes, margin, wanted).map(|push| push.beta);
        assert_eq!(beta(1.5), Some(0.5));
        assert_eq!(beta(9.0), Some(1.0));
        assert_eq!(choose([], margin, 1.0), None);
    }

    #[test]
    fn unusable_strengths_are_refused() {
        let broken = [vec![], vec![-1.0], vec![f32::NAN], vec![1.0, 0.5]];
        for strengths in broken {
            assert!(
                PushOptions {
                    strengths,
                    margin: 1.0
                }
                .validate()
                .is_err()
            );
        }
    }
}
