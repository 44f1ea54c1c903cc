//! Which label the evidence recovers, and whether the input is adversarial: the score and the verdict.

use crate::error::{Error, Result};

use super::Reading;

/// Whether the evidence says that an input is adversarial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The evidence says that the input label is wrong: the picture was attacked.
    Adversarial,
    /// The evidence confirms the input label.
    Clean,
    /// The evidence decides for neither label.
    Undecided,
}

impl Verdict {
    /// The verdict's name in results: `adversarial`, `clean` or `undecided`.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Adversarial => "adversarial",
            Verdict::Clean => "clean",
            Verdict::Undecided => "undecided",
        }
    }
}

/// The thresholds of the score, and the weights of the evidence.
#[derive(Clone, Debug, serde::Serialize)]
pub struct VerdictOptions {
    /// Largest score with the verdict `clean`, in `[0, 1]`.
    pub clean_below: f64,
    /// Smallest score with the verdict `adversarial`, in `[0, 1]`; scores between the two thresholds are
    /// `undecided`.
    pub adversarial_from: f64,
    /// How the evidence is weighed.
    pub evidence: EvidenceOptions,
}

/// How the evidence for another label than the input label is weighed.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct EvidenceOptions {
    /// Weight of the views' change of the odds, relative to the support.
    pub view_weight: f64,
    /// Multiple of the views' standard deviation that is subtracted from their mean.
    pub view_std_penalty: f64,
    /// The most that the views count in the score, for the recovered label or against it, in nats; infinite (`null`
    /// in records): as much as they say. The recovered label is chosen by all that they say.
    pub view_bound_nats: f64,
    /// The lead of the recovered label at which the score is ½, in nats.
    pub neutral_lead_nats: f64,
}

impl Default for EvidenceOptions {
    fn default() -> Self {
        EvidenceOptions {
            view_weight: 1.5,
            view_std_penalty: 0.5,
            view_bound_nats: 4.0,
            neutral_lead_nats: 1.9,
        }
    }
}

impl EvidenceOptions {
    fn validate(&self) -> Result<()> {
        at_least_zero("view_weight", self.view_weight)?;
        at_least_zero("view_std_penalty", self.view_std_penalty)?;
        if self.view_bound_nats.is_nan() || self.view_bound_nats < 0.0 {
            let wrong = format!("must be 0 or above, or inf, not {}", self.view_bound_nats);
            return Err(Error::option("view_bound", wrong));
        }
        match self.neutral_lead_nats.is_finite() {
            true => Ok(()),
            false => Err(Error::option("neutral_lead", "must be a number")),
        }
    }
}

fn at_least_zero(option: &str, weight: f64) -> Result<()> {
    match weight.is_finite() && weight >= 0.0 {
        true => Ok(()),
        false => {
            let wrong = format!("must be a number from 0 on, not {weight}");
            Err(Error::option(option, wrong))
        }
    }
}

impl Default for VerdictOptions {
    fn default() -> Self {
        VerdictOptions {
            clean_below: 0.47,
            adversarial_from: 0.5,
            evidence: EvidenceOptions::default(),
        }
    }
}

impl VerdictOptions {
    /// Checks every number.
    pub fn validate(&self) -> Result<()> {
        self.evidence.validate()?;
        if 0.0 <= self.clean_below
            && self.clean_below <= self.adversarial_from
            && self.adversarial_from <= 1.0
        {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the verdict's thresholds must be in [0, 1], the lower one first, not {} and {}",
            self.clean_below, self.adversarial_from
        )))
    }

    /// The verdict for a score in `[0, 1]`.
    pub fn verdict(&self, score: f64) -> Verdict {
        if score >= self.adversarial_from {
            Verdict::Adversarial
        } else if score <= self.clean_below {
            Verdict::Clean
        } else {
            Verdict::Undecided
        }
    }

    /// Judges an input by its reading, the readings of its views, and the
    /// [support](super::DecisionMap::support) of all classes.
    pub fn judge(&self, input: &Reading, views: &[Reading], support: &[f64]) -> Judgment {
        let label = input.label();
        let leads = (0..support.len()).map(|class| {
            let odds = Odds::new(input, views, support, class, label);
            Lead::new(&odds, &self.evidence)
        });
        let leads: Vec<Lead> = leads.collect();
        let whole: Vec<f64> = leads.iter().map(Lead::whole).collect();
        let recovered = best_other(&whole, label);
        let logit = |label: usize| {
            leads[label].bounded(self.evidence.view_bound_nats) - self.evidence.neutral_lead_nats
        };
        let score = recovered.map_or(0.0, |label| 1.0 / (1.0 + (-logit(label)).exp()));
        Judgment {
            support: probabilities(support),
            recovered,
            score,
            verdict: self.verdict(score),
        }
    }
}

/// The judgment of an input: recovered label, score and verdict.
#[derive(Clone, Debug)]
pub struct Judgment {
    /// The support of each class; the sum is 1.
    pub support: Vec<f64>,
    /// The label, other than the input label, with the most evidence; `None` if the classifier has only one
    /// class.
    pub recovered: Option<usize>,
    /// How strongly the evidence speaks for the recovered label against the input label, in `[0, 1]`; ½ at
    /// the neutral lead.
    pub score: f64,
    /// The verdict that the thresholds give for the score.
    pub verdict: Verdict,
}

impl Judgment {
    /// The label that the output must have; `None` if the verdict is not `adversarial`.
    pub fn wanted(&self) -> Option<usize> {
        self.recovered
            .filter(|_| self.verdict == Verdict::Adversarial)
    }
}

/// The log-odds of one class to another: the logarithms of the ratios of their probabilities, in nats.
#[derive(Clone, Debug)]
pub(crate) struct Odds {
    /// Log-odds of their support.
    pub support: f64,
    /// Log-odds at the input.
    pub input: f64,
    /// Log-odds in each of the input's views.
    pub views: Vec<f64>,
}

impl Odds {
    /// The log-odds of `class` to `other`; `support` is that of
    /// [`DecisionMap::support`](super::DecisionMap::support).
    pub(crate) fn new(
        input: &Reading,
        views: &[Reading],
        support: &[f64],
        class: usize,
        other: usize,
    ) -> Odds {
        let of = |reading: &Reading| {
            reading.floored_log_probability(class) - reading.floored_log_probability(other)
        };
        Odds {
            support: support[class] - support[other],
            input: of(input),
            views: views.iter().map(of).collect(),
        }
    }
}

/// The lead of a class over the input label, in nats, and how it changes with the log-odds of the class to the
/// input label.
///
/// The lead has two parts:
///
/// - The support: behind the reconstructions the probability of an adversarial label falls, and mostly that
///   of the true label rises. The lead has their log-odds as they are.
/// - By how much the views raise the class's log-odds above those at the input. An attack lowers the true
///   label's logit for one exact picture; if that picture is moved by a few pixels or mirrored, the true
///   label's logit rises again and the adversarial label's falls. The views of a clean photograph have the
///   same log-odds as the photograph; if they do not, they differ among each other too, so a multiple of
///   their standard deviation is subtracted from their mean.
///
/// Logarithms are needed because a strong attack changes the true label's probability to 1e-20 at the input
/// and 1e-10 in the views. An attacker can make them say as much of a clean picture, so the score bounds them.
/// Measurements: docs/tuning.md.
pub(crate) struct Lead {
    /// Log-odds of the support.
    support: f64,
    /// What the views add.
    pub(crate) views: f64,
    /// Derivative of `views` by the log-odds at the input.
    pub(crate) by_input: f64,
    /// Derivative of `views` by the log-odds in each view.
    pub(crate) by_view: Vec<f64>,
}

impl Lead {
    pub(crate) fn new(odds: &Odds, weights: &EvidenceOptions) -> Lead {
        if odds.views.is_empty() {
            return Lead {
                support: odds.support,
                views: 0.0,
                by_input: 0.0,
                by_view: vec![],
            };
        }
        let count = odds.views.len() as f64;
        let mean = odds.views.iter().sum::<f64>() / count;
        let squares = odds.views.iter().map(|view| (view - mean).powi(2));
        let deviation = (squares.sum::<f64>() / count).sqrt();
        let seen = mean - weights.view_std_penalty * deviation;
        let by_view = |view: &f64| {
            let outlying = match deviation > 0.0 {
                true => (view - mean) / deviation,
                false => 0.0,
            };
            weights.view_weight * (1.0 - weights.view_std_penalty * outlying) / count
        };
        Lead {
            support: odds.support,
            views: weights.view_weight * (seen - odds.input),
            by_input: -weights.view_weight,
            by_view: odds.views.iter().map(by_view).collect(),
        }
    }

    /// The lead by which the recovered label is chosen: all that the views say counts.
    pub(crate) fn whole(&self) -> f64 {
        self.support + self.views
    }

    /// The lead that the score has: the views count for `bound` nats at most, either way.
    pub(crate) fn bounded(&self, bound: f64) -> f64 {
        self.support + self.views.clamp(-bound, bound)
    }
}

/// The class other than `input` with the largest value, the first of equal ones; `None` if there is only one
/// class.
fn best_other(of_classes: &[f64], input: usize) -> Option<usize> {
    let others = of_classes
        .iter()
        .enumerate()
        .filter(|(class, _)| *class != input);
    others
        .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)))
        .map(|(class, _)| class)
}

/// Probabilities with sum 1, from their logarithms up to a common constant.
fn probabilities(logs: &[f64]) -> Vec<f64> {
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shares: Vec<f64> = logs.iter().map(|log| (log - most).exp()).collect();
    let sum: f64 = shares.iter().sum();
    shares.iter().map(|share| share / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::super::reading::MIN_LOG_PROB;
    use super::*;

    /// A reading of these probabilities.
    fn reading<const N: usize>(probabilities: [f64; N]) -> Reading {
        Reading::new(&probabilities.map(|p| p.ln() as f32))
    }

    fn judge<const N: usize>(
        input: [f64; N],
        views: &[[f64; N]],
        support: [f64; N],
    ) -> (Option<usize>, f64) {
        let views: Vec<Reading> = views.iter().map(|&view| reading(view)).collect();
        let support = support.map(|p| p.ln().max(MIN_LOG_PROB));
        let mut options = VerdictOptions::default();
        options.evidence.view_bound_nats = f64::INFINITY;
        let judged = options.judge(&reading(input), &views, &support);
        (judged.recovered, judged.score)
    }

    #[test]
    fn without_views_the_support_decides() {
        let input = [0.98, 0.01, 0.01];
        let (recovered, score) = judge(input, &[], [0.05, 0.8, 0.15]);
        assert_eq!(recovered, Some(1));
        // Odds of 16 to 1, and the even point.
        let odds: f64 = 16.0 * (-EvidenceOptions::default().neutral_lead_nats).exp();
        assert!((score - odds / (1.0 + odds)).abs() < 1e-9);
        // The input label is not recovered, however well supported.
        let (recovered, score) = judge(input, &[], [0.9, 0.04, 0.06]);
        assert_eq!(recovered, Some(2));
        assert!(score < 0.1);
    }

    #[test]
    fn a_label_that_comes_back_in_the_views_is_recovered() {
        // The attack has all but erased the third label, and its support is second.
        let input = [1.0 - 2e-9, 2e-9 - 1e-12, 1e-12];
        let support = [0.3, 0.4, 0.3];
        assert_eq!(judge(input, &[], support).0, Some(1));
        let same = judge(input, &[input, input], support);
        assert_eq!(same.0, Some(1));
        let views = [[0.9, 0.05, 0.05], [0.8, 0.1, 0.1]];
        let (recovered, score) = judge(input, &views, support);
        assert_eq!(recovered, Some(2));
        assert!(same.1 < 0.2 && score > 0.999);
        // How many views there are does not count.
        let one = judge(input, &views[..1], support);
        assert_eq!(judge(input, &[views[0]; 3], support).0, one.0);
        assert!((judge(input, &[views[0]; 3], support).1 - one.1).abs() < 1e-9);
    }

    #[test]
    fn an_input_that_its_views_do_not_share_is_suspect() {
        let judged = |view: [f64; 2]| judge([0.9, 0.1], &[view], [0.6, 0.4]).1;
        assert!(judged([0.95, 0.05]) < judged([0.9, 0.1]));
        assert!(judged([0.9, 0.1]) < judged([0.5, 0.5]));
        assert!(judged([0.9, 0.1]) < 0.5 && judged([0.2, 0.8]) > 0.5);
    }

    #[test]
    fn views_that_differ_say_less_than_views_that_agree() {
        let lead_of = |views: &[f64]| {
            let odds = Odds {
                support: -0.4,
                input: -3.0,
                views: views.to_vec(),
            };
            Lead::new(&odds, &EvidenceOptions::default()).whole()
        };
        let weights = EvidenceOptions::default();
        let agreed = lead_of(&[2.0; 4]);
        assert!((agreed - (-0.4 + weights.view_weight * 5.0)).abs() < 1e-9);
        // Of mean 2 and deviation 3.
        let differing = lead_of(&[-1.0, 5.0, 5.0, -1.0]);
        let less = weights.view_weight * weights.view_std_penalty * 3.0;
        assert!((agreed - differing - less).abs() < 1e-9);
        assert_eq!(lead_of(&[]), -0.4);
    }

    #[test]
    fn the_lead_has_the_derivatives_that_it_says() {
        for views in [vec![-1.0, 0.5, -2.5], vec![2.0], vec![]] {
            // The support's, the input's, and the views'.
            let at = |place: usize, step: f64| {
                let mut all = [&[-0.4, -3.0][..], &views].concat();
                if let Some(number) = all.get_mut(place) {
                    *number += step;
                }
                let odds = Odds {
                    support: all[0],
                    input: all[1],
                    views: all[2..].to_vec(),
                };
                Lead::new(&odds, &EvidenceOptions::default())
            };
            let Lead {
                by_input, by_view, ..
            } = at(0, 0.0);
            for (place, slope) in [1.0, by_input].into_iter().chain(by_view).enumerate() {
                let numeric = (at(place, 1e-4).whole() - at(place, -1e-4).whole()) / 2e-4;
                assert!((numeric - slope).abs() < 1e-6, "{place}: {numeric} {slope}");
            }
        }
    }

    #[test]
    fn the_bound_limits_the_score_and_not_the_choice_of_the_label() {
        let input = reading([1.0 - 2e-9, 2e-9 - 1e-12, 1e-12]);
        let views = [reading([0.9, 0.05, 0.05]), reading([0.8, 0.1, 0.1])];
        let support = [0.3, 0.4, 0.3].map(f64::ln);
        let judged = |bound: f64, input: &Reading, views: &[Reading]| {
            let mut options = VerdictOptions::default();
            options.evidence.view_bound_nats = bound;
            let judged = options.judge(input, views, &support);
            (judged.recovered, (judged.score / (1.0 - judged.score)).ln())
        };
        let neutral = EvidenceOptions::default().neutral_lead_nats;
        // The third label's support is that of the input label, and the views say 20 nats and more for it.
        let (recovered, logit) = judged(4.0, &input, &views);
        assert_eq!(recovered, Some(2));
        assert!((logit - (4.0 - neutral)).abs() < 1e-6, "{logit}");
        assert!(judged(f64::INFINITY, &input, &views).1 > 20.0);
        // Views that say as much against a label are bounded too.
        let against = [
            reading([1.0 - 2e-9, 1e-9, 1e-9]),
            reading([1.0 - 2e-9, 1e-9, 1e-9]),
        ];
        let (recovered, logit) = judged(4.0, &reading([0.8, 0.1, 0.1]), &against);
        assert_eq!(recovered, Some(1));
        assert!(
            (logit - ((4.0_f64 / 3.0).ln() - 4.0 - neutral)).abs() < 1e-6,
            "{logit}"
        );
    }

    #[test]
    fn vanished_probabilities_give_a_number() {
        for views in [vec![], vec![[0.0, 1.0]], vec![[1.0, 0.0]]] {
            for support in [[0.0, 0.0], [1.0, 0.0]] {
                let (_, score) = judge([1.0, 0.0], &views, support);
                assert!((0.0..=1.0).contains(&score), "{views:?} {support:?}");
            }
        }
        assert_eq!(judge([1.0], &[], [1.0]), (None, 0.0));
    }

    #[test]
    fn thresholds_make_the_words() {
        let options = VerdictOptions {
            clean_below: 0.4,
            adversarial_from: 0.6,
            ..VerdictOptions::default()
        };
        let words = [0.4, 0.5, 0.6].map(|score| options.verdict(score));
        assert_eq!(
            words,
            [Verdict::Clean, Verdict::Undecided, Verdict::Adversarial]
        );
        for (clean_below, adversarial_from) in
            [(0.6, 0.4), (-0.1, 0.5), (0.5, 1.1), (f64::NAN, 0.5)]
        {
            assert!(
                VerdictOptions {
                    clean_below,
                    adversarial_from,
                    ..VerdictOptions::default()
                }
                .validate()
                .is_err()
            );
        }
    }

    #[test]
    fn weights_are_recorded_and_checked() {
        let mut options = VerdictOptions::default();
        let recorded = |options: &VerdictOptions| serde_json::to_value(options).unwrap();
        let evidence = serde_json::json!({
            "view_weight": 1.5, "view_std_penalty": 0.5, "view_bound_nats": 4.0, "neutral_lead_nats": 1.9,
        });
        assert_eq!(recorded(&options)["evidence"], evidence);
        options.evidence.view_bound_nats = f64::INFINITY;
        options.validate().unwrap();
        assert!(recorded(&options)["evidence"]["view_bound_nats"].is_null());
        let unusable: [fn(&mut EvidenceOptions); 5] = [
            |o| o.neutral_lead_nats = f64::NAN,
            |o| o.view_bound_nats = f64::NAN,
            |o| o.view_bound_nats = -1.0,
            |o| o.view_weight = -1.0,
            |o| o.view_std_penalty = f64::INFINITY,
        ];
        for spoil in unusable {
            let mut options = VerdictOptions::default();
            spoil(&mut options.evidence);
            assert!(options.validate().is_err(), "{options:?}");
        }
    }
}
