//! Stage E: from on-boundary to on-manifold images, a step further away from the input.

use crate::backend::{At, Backend, Push};
use crate::error::{Error, Result};

use super::Prober;

/// How far on-boundary images are pushed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PushOptions {
    /// The strengths β to choose from, rising.
    pub strengths: Vec<f32>,
    /// Wanted margin of the recovered label, in logits: the smallest strength that reaches it is
    /// taken.
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
            return Err(Error::invalid(
                "push strengths must be one or more numbers of 0 and above, rising",
            ));
        }
        if !self.margin.is_finite() {
            return Err(Error::invalid("the push margin must be a number"));
        }
        Ok(())
    }
}

/// An on-boundary image to push.
pub struct OnBoundary<'a, I> {
    pub boundary: At<'a, I>,
    pub input: At<'a, I>,
    /// The recovered label.
    pub label: usize,
}

impl<'a, I> OnBoundary<'a, I> {
    /// The image pushed by `beta`, to make.
    pub fn pushed(&self, beta: f32) -> Push<'a, I> {
        Push {
            boundary: self.boundary,
            input: self.input,
            beta,
        }
    }
}

/// The chosen step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub beta: f32,
    /// Margin of the recovered label there.
    pub margin: f64,
}

/// Chooses each image's β: the smallest of the strengths whose margin reaches the wanted one, else the one
/// with the largest margin.
pub fn push<B: Backend>(
    prober: &mut Prober<'_, B>,
    options: &PushOptions,
    images: &[OnBoundary<'_, B::Images>],
) -> Result<Vec<Step>> {
    let mut jobs = Vec::with_capacity(images.len() * options.strengths.len());
    for image in images {
        jobs.extend(options.strengths.iter().map(|&beta| image.pushed(beta)));
    }
    let readings = prober.pushes(&jobs)?;
    Ok(images
        .iter()
        .zip(readings.chunks_exact(options.strengths.len()))
        .map(|(image, readings)| {
            let steps = options
                .strengths
                .iter()
                .zip(readings)
                .map(|(&beta, reading)| Step {
                    beta,
                    margin: reading.margin(image.label),
                });
            choose(steps, options.margin)
        })
        .collect())
}

/// The first step that reaches `wanted`, else the one with the largest margin.
fn choose(steps: impl Iterator<Item = Step>, wanted: f64) -> Step {
    let mut best: Option<Step> = None;
    for step in steps {
        if step.margin >= wanted {
            return step;
        }
        if best.is_none_or(|best| step.margin > best.margin) {
            best = Some(step);
        }
    }
    best.expect("options hold at least one strength")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_smallest_sufficient_strength_else_the_best() {
        let steps = [(0.0, 0.1), (0.5, 2.0), (1.0, 3.0), (2.0, 1.0)]
            .map(|(beta, margin)| Step { beta, margin });
        assert_eq!(choose(steps.into_iter(), 1.5).beta, 0.5);
        assert_eq!(choose(steps.into_iter(), 9.0).beta, 1.0);
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
