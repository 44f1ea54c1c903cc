//! The decision-aware loss: how far the defense's own decision is from a wrong one.
//!
//! The defended system gives the input label where its verdict is `clean`, the recovered label where it
//! is `adversarial`, and the classifier's label of a reconstruction where it is `undecided`. Each way to
//! a wrong answer is a list of conditions on log-probabilities: of the input, its views, the support, and
//! the reconstruction that is the output. The loss is a function of these log-probabilities, so its
//! gradient moves the label and the score together. Tramèr et al. 2020 advise this: attack the quantity
//! that decides.

use crate::attack::losses::{Aim, Loss};
use crate::defense::{Lead, MIN_LOG_PROB, Odds, Reading, VerdictOptions, support};

/// The readings by which the defense decides about a picture.
pub(super) struct Decision<'a> {
    pub verdict: &'a VerdictOptions,
    /// Whether pictures with the verdict `clean` are purified too.
    pub always: bool,
    pub input: &'a Reading,
    /// Readings of the input's views.
    pub views: &'a [Reading],
    /// The decision map's votes.
    pub votes: Vec<&'a Reading>,
    /// Reading of the reconstruction, where one is the output.
    pub shown: Option<&'a Reading>,
    /// The natural logarithm of each class's support.
    support: Vec<f64>,
}

/// The loss of a [`Decision`], with its derivatives by every reading's logits.
#[derive(Debug)]
pub(super) struct Ascent {
    /// Above 0 where the decision is wrong, in nats.
    pub loss: f64,
    pub input: Vec<f32>,
    /// One row a view.
    pub views: Vec<Vec<f32>>,
    /// One row a vote.
    pub votes: Vec<Vec<f32>>,
    pub shown: Option<Vec<f32>>,
}

/// A way to a wrong answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The classifier's label does not meet the aim, but is judged adversarial, and the recovered label meets it.
    FalseAlarm,
    /// The classifier's label meets the aim, and is judged clean.
    JudgedClean,
    /// The classifier's label is wrong and judged adversarial, and the recovered label is a third one that meets the aim.
    ThirdLabel,
    /// The output is a reconstruction whose label meets the aim.
    Undecided,
}

impl Way {
    /// All of them, the one first that most attacks succeed on.
    pub(super) const ALL: [Way; 4] = [
        Way::FalseAlarm,
        Way::JudgedClean,
        Way::ThirdLabel,
        Way::Undecided,
    ];
}

/// What a log-probability is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Input,
    /// One view of the input.
    View(usize),
    Support,
    Shown,
}

/// The quantity by which classes are compared.
#[derive(Clone, Copy, Debug)]
enum Measure {
    /// Their log-probability at the input.
    Input,
    /// Their lead over this label, if it is the input label.
    Evidence(usize),
    /// Their log-probability at the reconstruction that is the output.
    Shown,
}

/// A function of log-probabilities: its value, and its derivative by each that it depends on.
#[derive(Clone, Debug)]
struct Term {
    value: f64,
    slopes: Vec<(Place, usize, f64)>,
}

/// Scores of 0 and 1 have infinite logits; these finite ones stand for them.
const MAX_LOGIT: f64 = 30.0;

fn logit(score: f64) -> f64 {
    (score / (1.0 - score)).ln().clamp(-MAX_LOGIT, MAX_LOGIT)
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

    /// `self − other`.
    fn minus(mut self, other: Term) -> Term {
        let other = other.scaled(-1.0, 0.0);
        self.value += other.value;
        self.slopes.extend(other.slopes);
        self
    }

    /// Joins conditions that hold at 0 and above: the sum of the negative ones, or the smallest one if
    /// all hold.
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
        (input, views): (&'a Reading, &'a [Reading]),
        votes: Vec<&'a Reading>,
        shown: Option<&'a Reading>,
    ) -> Self {
        Decision {
            support: support(input.classes(), votes.iter().copied()),
            verdict,
            always,
            input,
            views,
            votes,
            shown,
        }
    }

    /// How far the decision is from the aim of `loss` on this way, or on the nearest one: below 0, the sum of the
    /// conditions that do not hold; above 0, by how much all of them hold. 0 without slopes if there is no such way.
    ///
    /// If `loss` is a margin, the result is at most its confidence.
    pub(super) fn ascent(&self, loss: &Loss, way: Option<Way>) -> Ascent {
        let ways = self.ways(loss.aim()).into_iter();
        let ways = ways.filter(|(kind, _)| way.is_none_or(|way| way == *kind));
        let ways = ways.filter_map(|(_, conditions)| Term::all(conditions));
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
    fn ways(&self, aim: Aim) -> Vec<(Way, Vec<Term>)> {
        use Measure::{Evidence, Input};
        let mut ways = Vec::new();
        let mut add = |way: Way, conditions: Option<Vec<Term>>| {
            ways.extend(conditions.map(|conditions| (way, conditions)));
        };
        let judged_clean = |wrong: usize| match self.always {
            true => None,
            false => self.clean(wrong),
        };
        match aim {
            Aim::AwayFrom(label) => {
                let at_input = self.best(Input, &[label]);
                let on_map = self.best(Evidence(label), &[label]);
                let other = on_map.filter(|_| on_map != at_input);
                add(Way::JudgedClean, at_input.and_then(judged_clean));
                add(Way::JudgedClean, other.and_then(judged_clean));
                let alarm = on_map.map(|wrong| self.adversarial(label, wrong));
                add(Way::FalseAlarm, alarm);
                let third = at_input.and_then(|wrong| {
                    let third = self.best(Evidence(wrong), &[label, wrong])?;
                    Some(self.adversarial(wrong, third))
                });
                add(Way::ThirdLabel, third);
            }
            Aim::Towards(target) => {
                add(Way::JudgedClean, judged_clean(target));
                let from = self.best(Input, &[target]);
                let alarm = from.map(|input| self.adversarial(input, target));
                add(Way::FalseAlarm, alarm);
            }
        }
        add(Way::Undecided, self.undecided(aim));
        ways
    }

    /// Conditions for the input label `label` and the verdict `clean`.
    fn clean(&self, label: usize) -> Option<Vec<Term>> {
        let recovered = self.best(Measure::Evidence(label), &[label])?;
        let below = logit(self.verdict.clean_below);
        let mut way = vec![self.below(label, recovered, below)];
        way.extend(self.lead(Measure::Input, label, None));
        Some(way)
    }

    /// Conditions for the input label `input`, the recovered label `recovered` and the verdict
    /// `adversarial`.
    fn adversarial(&self, input: usize, recovered: usize) -> Vec<Term> {
        let from = logit(self.verdict.adversarial_from);
        let mut way = vec![self.above(input, recovered, from)];
        way.extend(self.lead(Measure::Input, input, None));
        way.extend(self.lead(Measure::Evidence(input), recovered, Some(input)));
        way
    }

    /// Conditions for a reconstruction that is the output to stay it and to meet the aim; `None` where
    /// the output is no reconstruction, because it is not known which one would become it.
    fn undecided(&self, aim: Aim) -> Option<Vec<Term>> {
        self.shown?;
        let input = self.input.label();
        let recovered = self.best(Measure::Evidence(input), &[input])?;
        let mut way = vec![self.below(input, recovered, logit(self.verdict.adversarial_from))];
        if !self.always {
            way.push(self.above(input, recovered, logit(self.verdict.clean_below)));
        }
        way.extend(match aim {
            Aim::AwayFrom(label) => self.lead(Measure::Shown, label, None).map(|lead| {
                // The best other class's log-probability less this one's.
                lead.scaled(-1.0, 0.0)
            }),
            Aim::Towards(target) => self.lead(Measure::Shown, target, None),
        });
        Some(way)
    }

    /// By how much the score's logit exceeds `threshold` if these are the input label and the recovered label.
    fn above(&self, input: usize, recovered: usize, threshold: f64) -> Term {
        let bound = self.verdict.evidence.view_bound_nats;
        let lead = self.lead_over(input, recovered);
        // Views that count for all that they can do not count for more. Beyond the other bound their slope is the
        // way back, though the score does not change yet.
        let rises = lead.views < bound;
        let neutral = self.verdict.evidence.neutral_lead_nats;
        Term {
            value: lead.bounded(bound) - neutral - threshold,
            slopes: slopes(&lead, (recovered, input), rises),
        }
    }

    /// By how much the score's logit is below `threshold`, likewise.
    fn below(&self, input: usize, recovered: usize, threshold: f64) -> Term {
        let bound = self.verdict.evidence.view_bound_nats;
        let lead = self.lead_over(input, recovered);
        let falls = lead.views > -bound;
        let neutral = self.verdict.evidence.neutral_lead_nats;
        let above = Term {
            value: lead.bounded(bound) - neutral,
            slopes: slopes(&lead, (recovered, input), falls),
        };
        above.scaled(-1.0, threshold)
    }

    fn lead_over(&self, input: usize, class: usize) -> Lead {
        let odds = Odds::new(self.input, self.views, &self.support, class, input);
        Lead::new(&odds, &self.verdict.evidence)
    }

    /// By how much `class` exceeds the best of the others without `except`; `None` where there is none.
    fn lead(&self, measure: Measure, class: usize, except: Option<usize>) -> Option<Term> {
        let rival = self.best(measure, &[class, except.unwrap_or(class)])?;
        let of = |class| self.measured(measure, class);
        Some(of(class).minus(of(rival)))
    }

    /// The class with the largest measure that is not in `except`; the first of equal ones.
    fn best(&self, measure: Measure, except: &[usize]) -> Option<usize> {
        let of = |class| self.measured(measure, class).value;
        let classes = (0..self.input.classes()).filter(|class| !except.contains(class));
        let measured = classes.map(|class| (class, of(class)));
        let best = measured.reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.map(|(class, _)| class)
    }

    fn measured(&self, measure: Measure, class: usize) -> Term {
        let at = |place, reading: &Reading| Term {
            value: reading.floored_log_probability(class),
            slopes: vec![(place, class, 1.0)],
        };
        match measure {
            Measure::Input => at(Place::Input, self.input),
            Measure::Shown => self.shown.map_or(
                Term {
                    value: MIN_LOG_PROB,
                    slopes: vec![],
                },
                |shown| at(Place::Shown, shown),
            ),
            Measure::Evidence(input) => {
                let lead = self.lead_over(input, class);
                Term {
                    value: lead.whole(),
                    slopes: slopes(&lead, (class, input), true),
                }
            }
        }
    }

    /// The derivatives by log-probabilities, as derivatives by logits: the chain rule.
    fn by_logits(&self, term: &Term) -> Ascent {
        let at = |place: Place| term.slopes.iter().filter(move |slope| slope.0 == place);
        let weights = |place: Place| at(place).map(|&(_, class, slope)| (class, slope)).collect();
        let vote = |vote: &&Reading| {
            let share = 1.0 / self.votes.len() as f64;
            let weights = at(Place::Support).map(|&(_, class, slope)| (class, slope * share));
            by_logits(vote, weights.collect())
        };
        let view = |(i, view)| by_logits(view, weights(Place::View(i)));
        Ascent {
            loss: term.value,
            input: by_logits(self.input, weights(Place::Input)),
            views: self.views.iter().enumerate().map(view).collect(),
            votes: self.votes.iter().map(vote).collect(),
            shown: self
                .shown
                .map(|shown| by_logits(shown, weights(Place::Shown))),
        }
    }
}

/// The slopes of a class's lead over the input label; those of the views and of the input count where `views` says
/// so.
fn slopes(lead: &Lead, (class, input): (usize, usize), views: bool) -> Vec<(Place, usize, f64)> {
    let mut all = vec![(Place::Support, 1.0)];
    if views {
        let by_view = lead.by_view.iter().enumerate();
        all.push((Place::Input, lead.by_input));
        all.extend(by_view.map(|(view, &slope)| (Place::View(view), slope)));
    }
    let of_both = |(place, slope): (Place, f64)| [(place, class, slope), (place, input, -slope)];
    all.into_iter().flat_map(of_both).collect()
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
