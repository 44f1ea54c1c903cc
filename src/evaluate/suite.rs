//! Which attacks an evaluation runs.

use serde::Serialize;
use serde_json::{Map, json};

use super::case::{Case, CaseKind};
use crate::attack::adaptive::{Adaptive, Rule, Seeds};
use crate::attack::{Method, Name};
use crate::error::{Error, Result};

/// A choice of attacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// PGD-20 and C&W, on the first 32 pictures
    #[default]
    Quick,
    /// Every attack, made on the classifier alone, and random noise
    Standard,
    /// PGD and Square on the classifier alone, and through the whole defense, with and without its seed
    Adaptive,
}

impl Suite {
    /// How many pictures it is meant for; `None` for all.
    pub fn limit(self) -> Option<usize> {
        match self {
            Suite::Quick => Some(32),
            Suite::Standard | Suite::Adaptive => None,
        }
    }
}

/// An attack that the user asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// `None` for random noise.
    pub method: Option<Name>,
    /// How it gets through the defense; `None` for an attack on the classifier alone.
    pub through: Option<Adaptive>,
    /// Its size; `None` for the usual one.
    pub eps: Option<f32>,
}

impl Wanted {
    /// Whether it takes a size; DeepFool and C&W minimize theirs.
    pub fn takes_eps(&self) -> bool {
        !matches!(self.method, Some(Name::DeepFool | Name::Cw))
    }
}

/// A suite, with the user's changes to it.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The suite that is changed.
    pub suite: Suite,
    /// Attacks in place of the suite's; empty for the suite's.
    pub attacks: Vec<Wanted>,
    /// Sizes, in place of the suite's, of attacks in the maximum norm that name none; empty for the suite's.
    pub eps: Vec<f32>,
    /// Images that Square may ask the classifier about.
    pub queries: usize,
    /// Images that Square may ask the defended system about.
    pub defended_queries: usize,
    /// Steps of PGD through the defense; each costs one purification for each draw.
    pub defended_steps: usize,
    /// Seed of every attack's random numbers.
    pub seed: u64,
    /// Round attacked pictures to 8 bits.
    pub eight_bit: bool,
}

const LEVEL: f32 = 1.0 / 255.0;
/// The default size of attacks in the maximum norm: AutoAttack's for ImageNet.
const EPS: f32 = 4.0 * LEVEL;
/// A size at which a working attack can remove everything that a picture shows.
pub(super) const LARGE: f32 = 64.0 * LEVEL;

impl Choice {
    /// The cases, the clean pictures first; for a classifier of `classes` classes.
    ///
    /// # Errors
    /// A number that cannot be used, or the same attack twice.
    pub fn cases(&self, classes: usize) -> Result<Vec<Case>> {
        let mut cases = vec![Case::clean()];
        for Wanted {
            method,
            through,
            eps,
        } in self.wanted()
        {
            let sizes: Vec<Option<f32>> = match (eps, method) {
                (Some(eps), _) => vec![Some(eps)],
                (None, Some(Name::DeepFool | Name::Cw | Name::PgdL2)) => vec![None],
                (None, _) if self.eps.is_empty() => vec![Some(EPS)],
                (None, _) => self.eps.iter().copied().map(Some).collect(),
            };
            for eps in sizes {
                cases.push(match method {
                    Some(name) => self.case(name, through, eps, classes)?,
                    None => Case::noise(eps.unwrap_or(EPS), self.seed),
                });
            }
        }
        for (i, case) in cases.iter().enumerate() {
            if cases[..i].iter().any(|other| other.name == case.name) {
                return Err(Error::invalid(format!(
                    "{} is asked for twice; name each attack and size once",
                    case.name
                )));
            }
        }
        Ok(cases)
    }

    fn case(
        &self,
        name: Name,
        through: Option<Adaptive>,
        eps: Option<f32>,
        classes: usize,
    ) -> Result<Case> {
        if through.is_some_and(|way| (way.rule != Rule::Queries) != name.follows_gradients()) {
            return Err(Error::invalid(format!(
                "{name} does not go through the defense that way: square asks queries, the others follow \
                 identity, trajectory, decision or ways"
            )));
        }
        let mut options = Map::new();
        if let Some(eps) = eps {
            options.insert("eps".into(), json!(eps));
        }
        if name == Name::Pgd {
            // 20 steps of torchattacks' size, or larger ones if those would not reach the ball's edge, or smaller ones
            // if those would cross the whole ball.
            let eps = eps.unwrap_or(EPS);
            let steps = through.map_or(20, |_| self.defended_steps);
            let step_size = eps.min(2.0 * LEVEL).max(2.5 * eps / steps.max(1) as f32);
            options.insert("steps".into(), json!(steps));
            options.insert("step_size".into(), json!(step_size));
        }
        if through.is_some() && matches!(name, Name::ApgdCe | Name::ApgdDlr | Name::ApgdT) {
            options.insert("steps".into(), json!(self.defended_steps));
            options.insert("first_success".into(), json!(true));
        }
        if name == Name::Square {
            let queries = through.map_or(self.queries, |_| self.defended_queries);
            options.insert("queries".into(), json!(queries));
        }
        let method = Method::with(name, &options)?;
        let case = Case::attack(method, through, self.seed, self.eight_bit);
        if let CaseKind::Static { attack } | CaseKind::Adaptive { attack, .. } = &case.kind {
            attack.validate(classes)?;
        }
        Ok(case)
    }

    /// The attacks by name and size.
    fn wanted(&self) -> Vec<Wanted> {
        if !self.attacks.is_empty() {
            return self.attacks.clone();
        }
        let noise = Wanted {
            method: None,
            through: None,
            eps: None,
        };
        let usual = |name| Wanted {
            method: Some(name),
            ..noise
        };
        let pgd = |levels: f32| Wanted {
            eps: Some(levels * LEVEL),
            ..usual(Name::Pgd)
        };
        let through = |name, through| Wanted {
            through: Some(through),
            ..usual(name)
        };
        match self.suite {
            Suite::Quick => vec![usual(Name::Pgd), usual(Name::Cw)],
            Suite::Standard => {
                let mut all = vec![noise, usual(Name::Fgsm), usual(Name::Bim)];
                match self.eps.is_empty() {
                    true => all.extend([pgd(2.0), pgd(4.0), pgd(8.0), pgd(LARGE / LEVEL)]),
                    false => all.push(usual(Name::Pgd)),
                }
                all.extend(
                    [
                        Name::PgdL2,
                        Name::MiFgsm,
                        Name::DiFgsm,
                        Name::TiFgsm,
                        Name::VmiFgsm,
                        Name::SiNiFgsm,
                        Name::PgdViews,
                        Name::PgdLow,
                        Name::DeepFool,
                        Name::Cw,
                        Name::ApgdCe,
                        Name::ApgdDlr,
                        Name::ApgdT,
                        Name::Square,
                    ]
                    .map(usual),
                );
                all
            }
            Suite::Adaptive => {
                let expected = Adaptive {
                    rule: Rule::Decision,
                    draws: 4,
                    seeds: Seeds::Fresh,
                };
                let unseeded = Adaptive {
                    draws: 1,
                    ..expected
                };
                vec![
                    noise,
                    usual(Name::Pgd),
                    usual(Name::Square),
                    through(Name::Pgd, Adaptive::new(Rule::Identity)),
                    through(Name::Pgd, Adaptive::new(Rule::Trajectory)),
                    through(Name::Pgd, Adaptive::new(Rule::Decision)),
                    through(Name::Pgd, unseeded),
                    through(Name::Pgd, expected),
                    through(Name::ApgdCe, Adaptive::new(Rule::Ways)),
                    through(Name::Square, Adaptive::new(Rule::Queries)),
                ]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::case::Threat;
    use crate::evaluate::row::{BACKSTITCH, NONE};

    fn choice(suite: Suite) -> Choice {
        Choice {
            suite,
            queries: 100,
            defended_queries: 10,
            defended_steps: 10,
            eight_bit: true,
            ..Choice::default()
        }
    }

    fn names(choice: &Choice) -> Vec<String> {
        let cases = choice.cases(1000).unwrap();
        cases.into_iter().map(|case| case.name).collect()
    }

    #[test]
    fn suites_have_the_documented_attacks() {
        assert_eq!(
            names(&choice(Suite::Quick)),
            ["clean", "pgd-linf-4", "cw-l2"]
        );
        assert_eq!(
            names(&choice(Suite::Standard)),
            [
                "clean",
                "noise-linf-4",
                "fgsm-linf-4",
                "bim-linf-4",
                "pgd-linf-2",
                "pgd-linf-4",
                "pgd-linf-8",
                "pgd-linf-64",
                "pgd-l2-1",
                "mi-fgsm-linf-4",
                "di-fgsm-linf-4",
                "ti-fgsm-linf-4",
                "vmi-fgsm-linf-4",
                "si-ni-fgsm-linf-4",
                "pgd-views-linf-4",
                "pgd-low-linf-4",
                "deepfool-l2",
                "cw-l2",
                "apgd-ce-linf-4",
                "apgd-dlr-linf-4",
                "apgd-t-linf-4",
                "square-linf-4",
            ]
        );
        assert_eq!(
            names(&choice(Suite::Adaptive)),
            [
                "clean",
                "noise-linf-4",
                "pgd-linf-4",
                "square-linf-4",
                "pgd-linf-4@identity",
                "pgd-linf-4@trajectory",
                "pgd-linf-4@decision",
                "pgd-linf-4@decision-fresh",
                "pgd-linf-4@decision-eot-4-fresh",
                "apgd-ce-linf-4@ways",
                "square-linf-4@queries",
            ]
        );
    }

    #[test]
    fn sizes_replace_those_of_attacks_in_the_maximum_norm() {
        let mut choice = choice(Suite::Quick);
        choice.eps = vec![LEVEL / 2.0, 16.0 * LEVEL];
        assert_eq!(
            names(&choice),
            ["clean", "pgd-linf-0.5", "pgd-linf-16", "cw-l2"]
        );
        let at = |method, eps| Wanted {
            method,
            through: None,
            eps,
        };
        let fgsm = at(Some(Name::Fgsm), Some(2.0 * LEVEL));
        choice.attacks = vec![at(None, None), fgsm, at(Some(Name::DeepFool), None)];
        assert_eq!(
            names(&choice),
            [
                "clean",
                "noise-linf-0.5",
                "noise-linf-16",
                "fgsm-linf-2",
                "deepfool-l2"
            ]
        );
        choice.attacks.push(fgsm);
        let error = choice.cases(1000).unwrap_err().to_string();
        assert!(error.contains("fgsm-linf-2 is asked for twice"), "{error}");
    }

    #[test]
    fn pgd_reaches_the_edge_of_every_ball() {
        let cases = choice(Suite::Standard).cases(1000).unwrap();
        for case in cases {
            if let Some(Method::Pgd(pgd)) = case.method() {
                assert_eq!(pgd.steps, 20);
                assert!(pgd.step_size * 20.0 >= 2.0 * pgd.eps, "{}", case.name);
                assert!(pgd.eps > 8.5 * LEVEL || pgd.step_size == 2.0 * LEVEL);
            }
        }
    }

    #[test]
    fn pgd_s_steps_do_not_cross_a_small_ball() {
        let mut choice = choice(Suite::Quick);
        choice.eps = vec![LEVEL / 4.0, LEVEL, 2.0 * LEVEL];
        let cases = choice.cases(1000).unwrap();
        let steps = cases.iter().filter_map(|case| match case.method() {
            Some(Method::Pgd(pgd)) => Some(pgd.step_size),
            _ => None,
        });
        assert_eq!(steps.collect::<Vec<_>>(), choice.eps);
    }

    #[test]
    fn an_attack_on_the_classifier_is_a_transfer_to_every_defense() {
        let cases = choice(Suite::Standard).cases(1000).unwrap();
        for case in cases {
            let (alone, behind) = (case.threat(NONE), case.threat("backstitch"));
            let expected = match case.name.as_str() {
                "clean" => (Threat::Clean, Threat::Clean),
                "noise-linf-4" => (Threat::Noise, Threat::Noise),
                "square-linf-4" => (Threat::BlackBox, Threat::Transfer),
                _ => (Threat::WhiteBox, Threat::Transfer),
            };
            assert_eq!((alone, behind), expected, "{}", case.name);
        }
        let threat = |name: &str, defense| {
            let cases = choice(Suite::Adaptive).cases(1000).unwrap();
            let case = cases.into_iter().find(|case| case.name == name).unwrap();
            case.threat(defense)
        };
        assert_eq!(threat("pgd-linf-4@decision", BACKSTITCH), Threat::Adaptive);
        assert_eq!(threat("pgd-linf-4@decision", NONE), Threat::Transfer);
        assert_eq!(threat("pgd-linf-4@decision", "jpeg-75"), Threat::Transfer);
        assert_eq!(
            threat("square-linf-4@queries", BACKSTITCH),
            Threat::BlackBox
        );
    }

    #[test]
    fn methods_go_through_the_defense_in_their_own_way() {
        let mut choice = choice(Suite::Quick);
        for (method, rule) in [(Name::Pgd, Rule::Queries), (Name::Square, Rule::Identity)] {
            choice.attacks = vec![Wanted {
                method: Some(method),
                through: Some(Adaptive::new(rule)),
                eps: None,
            }];
            let error = choice.cases(1000).unwrap_err().to_string();
            assert!(error.contains("square asks queries"), "{error}");
        }
    }

    #[test]
    fn titles_are_for_people() {
        let cases = choice(Suite::Standard).cases(1000).unwrap();
        let titles: Vec<&str> = cases.iter().map(|case| case.title.as_str()).collect();
        for title in [
            "FGSM, L∞ 4/255",
            "PGD-20, L∞ 8/255",
            "PGD-10, L2 1",
            "MI-FGSM-10, L∞ 4/255",
            "C&W-50, L2",
            "Square (100 queries), L∞ 4/255",
        ] {
            assert!(titles.contains(&title), "{title}: {titles:?}");
        }
    }
}
