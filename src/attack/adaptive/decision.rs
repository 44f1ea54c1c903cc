//! The decision-aware loss: how far the defence's own decision is from a wrong one.
//!
//! The defended system says the input label where its verdict is `clean`, the recovered label where it
//! is `adversarial`, and what the classifier sees in a reconstruction where it is `undecided`. Each
//! way to the wrong answer is a list of conditions on a few log-probabilities: at the input, in the
//! map's support, and at the reconstruction that is shown. This is a loss of what the defence reads,
//! so that its gradient moves the label and the score at once, as Tramèr et al. 2020 advise: attack
//! the quantity that decides.

use crate::attack::losses::{Aim, Loss};
use crate::defense::{Odds, Reading, VerdictOptions, evidence};

/// What the defence read of a picture.
pub(super) struct Decision<'a> {
    pub verdict: &'a VerdictOptions,
    /// Whether what looks clean is purified too.
    pub always: bool,
    pub input: &'a Reading,
    /// Of the input's mirror image, where it counts.
    pub mirrored: Option<&'a Reading>,
    /// The map's votes.
    pub votes: Vec<&'a Reading>,
    /// Of the reconstruction, where one is the output.
    pub shown: Option<&'a Reading>,
    /// ln of each class's support.
    support: Vec<f64>,
}

/// A loss of a [`Decision`], with its derivatives by every reading's logits.
#[derive(Debug)]
pub(super) struct Ascent {
    /// Above 0 where the decision is the wrong one, in nats.
    pub loss: f64,
    pub input: Vec<f32>,
    pub mirrored: Option<Vec<f32>>,
    /// One row a vote.
    pub votes: Vec<Vec<f32>>,
    pub shown: Option<Vec<f32>>,
}

/// Where log-probabilities are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Input,
    Mirror,
    Support,
    Shown,
}

/// A sum of log-probabilities: its value, and its derivative by each of them that counts.
#[derive(Clone, Debug)]
struct Term {
    value: f64,
    slopes: Vec<(Place, usize, f64)>,
}

/// Below this, in nats, a class is as good as ruled out; logits may be −∞.
const LEAST_LOG: f64 = -1e4;

fn log(reading: &Reading, class: usize) -> f64 {
    reading.log_probability(class).max(LEAST_LOG)
}

/// Scores of 0 and 1 as logits that one can count with.
const MOST_LOGIT: f64 = 30.0;

fn logit(score: f64) -> f64 {
    (score / (1.0 - score)).ln().clamp(-MOST_LOGIT, MOST_LOGIT)
}

impl Term {
    /// `factor · self + constant`.
    fn scaled(self, factor: f64, constant: f64) -> Term {
        let slopes = self.slopes.into_iter();
        Term {
            value: factor * self.value + constant,
            slopes: slopes.map(|(p, c, slope)| (p, c, factor * slope)).collect(),
        }
    }

    /// What is missing of conditions that hold at 0 and above, in sum; where nothing is, the smallest
    /// of them.
    fn all(conditions: Vec<Term>) -> Option<Term> {
        if conditions.iter().any(|condition| condition.value < 0.0) {
            let missing = conditions.into_iter().filter(|c| c.value < 0.0);
            return missing.reduce(|mut sum, condition| {
                sum.value += condition.value;
                sum.slopes.extend(condition.slopes);
                sum
            });
        }
        let by_value = |a: &Term, b: &Term| a.value.total_cmp(&b.value);
        conditions.into_iter().min_by(by_value)
    }
}

impl<'a> Decision<'a> {
    pub(super) fn new(
        verdict: &'a VerdictOptions,
        always: bool,
        (input, mirrored): (&'a Reading, Option<&'a Reading>),
        votes: Vec<&'a Reading>,
        shown: Option<&'a Reading>,
    ) -> Self {
        // ln of the mean probability; by the largest of them, so that it is finite.
        let support = |class: usize| {
            let logs = votes.iter().map(|vote| log(vote, class));
            let most = logs.clone().fold(LEAST_LOG, f64::max);
            let sum: f64 = logs.map(|x| (x - most).exp()).sum();
            most + sum.ln() - (votes.len() as f64).ln()
        };
        Decision {
            support: (0..input.classes()).map(support).collect(),
            verdict,
            always,
            input,
            mirrored,
            votes,
            shown,
        }
    }

    /// The distance of the decision from what `loss` aims at, along the nearest way: the sum of what
    /// its conditions lack. Where it is reached: by how much.
    ///
    /// Where `loss` is a margin it is bounded by its confidence.
    pub(super) fn ascent(&self, loss: &Loss) -> Ascent {
        let ways = self.ways(loss.aim()).into_iter().filter_map(Term::all);
        let nearest = ways.max_by(|a, b| a.value.total_cmp(&b.value));
        let mut nearest = nearest.unwrap_or(Term {
            value: 0.0,
            slopes: vec![],
        });
        if let Loss::Margin { confidence, .. } = *loss
            && nearest.value > f64::from(confidence)
        {
            nearest.value = f64::from(confidence);
            nearest.slopes.clear();
        }
        self.by_logits(&nearest)
    }

    /// The conditions of each way to the aim.
    fn ways(&self, aim: Aim) -> Vec<Vec<Term>> {
        use Place::{Input, Support};
        let mut ways = Vec::new();
        match aim {
            Aim::AwayFrom(label) => {
                let at_input = self.best(Input, &[label]);
                let in_support = self.best(Support, &[label]);
                if !self.always {
                    ways.extend(at_input.and_then(|wrong| self.clean(wrong)));
                    let other = in_support.filter(|_| in_support != at_input);
                    ways.extend(other.and_then(|wrong| self.clean(wrong)));
                }
                // A false alarm, and an alarm that recovers a third label.
                ways.extend(in_support.map(|wrong| self.adversarial(label, wrong)));
                ways.extend(at_input.and_then(|wrong| {
                    let third = self.best(Support, &[label, wrong])?;
                    Some(self.adversarial(wrong, third))
                }));
            }
            Aim::Towards(target) => {
                if !self.always {
                    ways.extend(self.clean(target));
                }
                let from = self.best(Input, &[target]);
                ways.extend(from.map(|input| self.adversarial(input, target)));
            }
        }
        ways.extend(self.undecided(aim));
        ways
    }

    /// The input label is `label`, and the verdict `clean`.
    fn clean(&self, label: usize) -> Option<Vec<Term>> {
        let recovered = self.best(Place::Support, &[label])?;
        let below = logit(self.verdict.clean_below);
        let mut way = vec![self.score(label, recovered).scaled(-1.0, below)];
        way.extend(self.lead(Place::Input, label, None));
        Some(way)
    }

    /// The input label is `input`, the recovered one `recovered`, and the verdict `adversarial`.
    fn adversarial(&self, input: usize, recovered: usize) -> Vec<Term> {
        let from = logit(self.verdict.adversarial_from);
        let mut way = vec![self.score(input, recovered).scaled(1.0, -from)];
        way.extend(self.lead(Place::Input, input, None));
        way.extend(self.lead(Place::Support, recovered, Some(input)));
        way
    }

    /// A reconstruction stays the output, and reads as the aim wants. Looked at only where one is:
    /// which one it would be is not known elsewhere.
    fn undecided(&self, aim: Aim) -> Option<Vec<Term>> {
        self.shown?;
        let input = self.input.label();
        let recovered = self.best(Place::Support, &[input])?;
        let score = || self.score(input, recovered);
        let mut way = vec![score().scaled(-1.0, logit(self.verdict.adversarial_from))];
        if !self.always {
            way.push(score().scaled(1.0, -logit(self.verdict.clean_below)));
        }
        way.extend(match aim {
            Aim::AwayFrom(label) => self.lead(Place::Shown, label, None).map(|lead| {
                // The lead of the best other class over this one.
                lead.scaled(-1.0, 0.0)
            }),
            Aim::Towards(target) => self.lead(Place::Shown, target, None),
        });
        Some(way)
    }

    /// The logit of the score that the map would have with these two labels.
    fn score(&self, input: usize, recovered: usize) -> Term {
        let odds = |place| self.log(place, recovered) - self.log(place, input);
        let (value, by_odds) = evidence(Odds {
            support: odds(Place::Support),
            input: odds(Place::Input),
            mirrored: self.mirrored.map(|_| odds(Place::Mirror)),
        });
        let places = [Place::Support, Place::Input, Place::Mirror];
        let slopes = places.into_iter().zip(by_odds);
        Term {
            value,
            slopes: slopes
                .flat_map(|(place, slope)| [(place, recovered, slope), (place, input, -slope)])
                .collect(),
        }
    }

    /// By how much `class` leads all others but `except`; `None` where there are no others.
    fn lead(&self, place: Place, class: usize, except: Option<usize>) -> Option<Term> {
        let rival = self.best(place, &[class, except.unwrap_or(class)])?;
        Some(Term {
            value: self.log(place, class) - self.log(place, rival),
            slopes: vec![(place, class, 1.0), (place, rival, -1.0)],
        })
    }

    /// The most probable class that is none of `except`; of equal ones the first.
    fn best(&self, place: Place, except: &[usize]) -> Option<usize> {
        let classes = (0..self.input.classes()).filter(|class| !except.contains(class));
        classes.reduce(
            |best, class| match self.log(place, class) > self.log(place, best) {
                true => class,
                false => best,
            },
        )
    }

    fn log(&self, place: Place, class: usize) -> f64 {
        match place {
            Place::Input => log(self.input, class),
            Place::Mirror => self.mirrored.map_or(LEAST_LOG, |seen| log(seen, class)),
            Place::Support => self.support[class],
            Place::Shown => self.shown.map_or(LEAST_LOG, |shown| log(shown, class)),
        }
    }

    /// The chain rule, from log-probabilities to logits.
    fn by_logits(&self, term: &Term) -> Ascent {
        let at = |place: Place| term.slopes.iter().filter(move |slope| slope.0 == place);
        let weights = |place: Place| at(place).map(|&(_, class, slope)| (class, slope)).collect();
        let vote = |vote: &&Reading| {
            // The support's logarithm changes by each vote's as much as the vote is part of it.
            let part = |class: usize| {
                let others = self.support[class] + (self.votes.len() as f64).ln();
                (log(vote, class) - others).exp()
            };
            let weights = at(Place::Support).map(|&(_, class, slope)| (class, slope * part(class)));
            by_logits(vote, weights.collect())
        };
        Ascent {
            loss: term.value,
            input: by_logits(self.input, weights(Place::Input)),
            mirrored: self
                .mirrored
                .map(|seen| by_logits(seen, weights(Place::Mirror))),
            votes: self.votes.iter().map(vote).collect(),
            shown: self
                .shown
                .map(|shown| by_logits(shown, weights(Place::Shown))),
        }
    }
}

/// The derivative by the logits of a weighted sum of log-probabilities.
fn by_logits(reading: &Reading, weights: Vec<(usize, f64)>) -> Vec<f32> {
    let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
    let share = |class| -sum * reading.probability(class);
    let mut derivative: Vec<f64> = (0..reading.classes()).map(share).collect();
    for (class, weight) in weights {
        derivative[class] += weight;
    }
    derivative.into_iter().map(|x| x as f32).collect()
}
