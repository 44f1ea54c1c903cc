//! Which attacks an evaluation runs.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::defenses::BACKSTITCH;
use crate::attack::adaptive::{Adaptive, Rule, Seeds};
use crate::attack::{AttackOptions, Ball, Method, Name, Norm, Target};
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
    /// PGD and Square on the classifier alone, and through the whole defence, with and without its seed
    Adaptive,
}

impl Suite {
    /// Pictures that it is meant for; `None` for all.
    pub fn limit(self) -> Option<usize> {
        match self {
            Suite::Quick => Some(32),
            Suite::Standard | Suite::Adaptive => None,
        }
    }
}

/// One column of attacked pictures: what is done to each picture before the defences see it.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// Short and unique: `pgd-linf-4`.
    pub name: String,
    /// For people: `PGD-20, L∞ 4/255`.
    pub title: String,
    #[serde(flatten)]
    pub kind: Kind,
}

/// Where a case's pictures come from.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// The pictures themselves.
    Clean,
    /// Random noise: each value moves by `eps` up or down, by a coin of its own.
    Noise { eps: f32, seed: u64 },
    /// An attack on the classifier alone.
    Static { attack: AttackOptions },
    /// An attack on the classifier behind the whole defence.
    Adaptive {
        attack: AttackOptions,
        through: Adaptive,
    },
    /// An attack that others made.
    Given,
}

/// What the attack that made a picture knew of the defence that is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Threat {
    /// There was no attack.
    Clean,
    /// There was no attack, but noise.
    Noise,
    /// The attack followed the gradients of what is judged.
    WhiteBox,
    /// The attack asked what is judged for its answers.
    BlackBox,
    /// The attack was made for what is judged, along an approximation of its gradient.
    Adaptive,
    /// The attack was made on something else than what is judged.
    Transfer,
    /// Others made the attack: what it knew is not known here.
    Unknown,
}

impl Threat {
    /// The word in results.
    pub fn name(self) -> &'static str {
        match self {
            Threat::Clean => "clean",
            Threat::Noise => "noise",
            Threat::WhiteBox => "white-box",
            Threat::BlackBox => "black-box",
            Threat::Adaptive => "adaptive",
            Threat::Transfer => "transfer",
            Threat::Unknown => "unknown",
        }
    }
}

/// The name of the row without any defence.
pub const NONE: &str = "none";

impl Case {
    /// The pictures as they are.
    pub fn clean() -> Case {
        Case {
            name: "clean".into(),
            title: "clean".into(),
            kind: Kind::Clean,
        }
    }

    /// The attack that others call so.
    pub fn given(attack: &str) -> Case {
        Case {
            name: format!("given:{attack}"),
            title: format!("{attack} (given)"),
            kind: Kind::Given,
        }
    }

    fn noise(eps: f32, seed: u64) -> Case {
        Case {
            name: format!("noise-linf-{}", short(eps)),
            title: format!("random ± noise, L∞ {}", fraction(eps)),
            kind: Kind::Noise { eps, seed },
        }
    }

    fn attack(method: Method, through: Option<Adaptive>, seed: u64, eight_bit: bool) -> Case {
        let ball = method.attack().ball();
        let parameters = serde_json::to_value(&method).unwrap_or_default();
        let known = |key: &str| parameters.get(key).and_then(Value::as_u64);
        let mut name = parameters["method"].as_str().unwrap_or_default().to_owned();
        let mut title = match name.as_str() {
            "deepfool" => "DeepFool".to_owned(),
            "cw" => "C&W".to_owned(),
            "square" => "Square".to_owned(),
            name => name.trim_end_matches("-l2").to_uppercase(),
        };
        if let Some(steps) = known("steps") {
            let _ = write!(title, "-{steps}");
        }
        if let Some(queries) = known("queries") {
            let _ = write!(title, " ({queries} queries)");
        }
        name = name.trim_end_matches("-l2").to_owned();
        match ball {
            Some(Ball { norm, eps }) => {
                let (tag, symbol) = norm_words(norm);
                let _ = write!(name, "-{tag}-{}", sized(norm, eps, short));
                let _ = write!(title, ", {symbol} {}", sized(norm, eps, fraction));
            }
            None => {
                name.push_str("-l2");
                title.push_str(", L2");
            }
        }
        let attack = AttackOptions {
            method,
            target: Target::Untargeted,
            seed,
            eight_bit,
        };
        let kind = match through {
            None => Kind::Static { attack },
            Some(through) => {
                let (tag, words) = way(through);
                let _ = write!(name, "@{tag}");
                let _ = write!(title, ", {words}");
                Kind::Adaptive { attack, through }
            }
        };
        Case { name, title, kind }
    }

    /// What bounds the change; `None` where nothing does.
    pub fn budget(&self) -> Option<Ball> {
        match &self.kind {
            Kind::Clean | Kind::Given => None,
            Kind::Noise { eps, .. } => Some(Ball {
                norm: Norm::Linf,
                eps: *eps,
            }),
            Kind::Static { attack } | Kind::Adaptive { attack, .. } => {
                attack.method.attack().ball()
            }
        }
    }

    /// The attack's method.
    pub fn method(&self) -> Option<&Method> {
        match &self.kind {
            Kind::Static { attack } | Kind::Adaptive { attack, .. } => Some(&attack.method),
            Kind::Clean | Kind::Noise { .. } | Kind::Given => None,
        }
    }

    /// Whether this is an attack: neither clean nor noise.
    pub fn is_attack(&self) -> bool {
        !matches!(self.kind, Kind::Clean | Kind::Noise { .. })
    }

    /// Whether these are the pictures themselves.
    pub fn is_clean(&self) -> bool {
        matches!(self.kind, Kind::Clean)
    }

    /// Whether others made the attack.
    pub fn is_given(&self) -> bool {
        matches!(self.kind, Kind::Given)
    }

    /// Whether the attack went through the whole defence.
    pub fn is_adaptive(&self) -> bool {
        matches!(self.kind, Kind::Adaptive { .. })
    }

    /// What the attack knew of `defense`.
    pub fn threat(&self, defense: &str) -> Threat {
        match &self.kind {
            Kind::Clean => Threat::Clean,
            Kind::Noise { .. } => Threat::Noise,
            Kind::Given => Threat::Unknown,
            Kind::Static { attack } if defense == NONE => match attack.method {
                Method::Square(_) => Threat::BlackBox,
                _ => Threat::WhiteBox,
            },
            Kind::Adaptive { through, .. } if defense == BACKSTITCH => match through.rule {
                Rule::Queries => Threat::BlackBox,
                _ => Threat::Adaptive,
            },
            Kind::Static { .. } | Kind::Adaptive { .. } => Threat::Transfer,
        }
    }
}

/// How an attack goes through the defence: for names and for people.
fn way(through: Adaptive) -> (String, String) {
    let rule = match through.rule {
        Rule::Queries => "queries",
        Rule::Identity => "identity",
        Rule::Trajectory => "trajectory",
        Rule::Decision => "decision",
    };
    let (mut tag, mut words) = (rule.to_owned(), format!("through the defence by {rule}"));
    if through.draws > 1 {
        let _ = write!(tag, "-eot-{}", through.draws);
        let _ = write!(words, ", {} draws", through.draws);
    }
    if through.seeds == Seeds::Fresh {
        tag.push_str("-fresh");
        words.push_str(", seeds unknown");
    }
    (tag, words)
}

fn norm_words(norm: Norm) -> (&'static str, &'static str) {
    match norm {
        Norm::Linf => ("linf", "L∞"),
        Norm::L2 => ("l2", "L2"),
    }
}

/// A radius in the norm's usual unit.
fn sized(norm: Norm, eps: f32, of_linf: impl Fn(f32) -> String) -> String {
    match norm {
        Norm::Linf => of_linf(eps),
        Norm::L2 => format!("{eps}"),
    }
}

/// A change of pixels in levels of 255: `4`, `0.5`.
fn short(eps: f32) -> String {
    let levels = f64::from(eps) * 255.0;
    format!("{}", (levels * 1000.0).round() / 1000.0)
}

/// The same as a fraction: `4/255`.
pub fn fraction(eps: f32) -> String {
    format!("{}/255", short(eps))
}

/// An attack that is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// `None` for random noise.
    pub method: Option<Name>,
    /// How it goes through the defence; `None` for an attack on the classifier alone.
    pub through: Option<Adaptive>,
    /// Its size; `None` for the usual one.
    pub eps: Option<f32>,
}

impl Wanted {
    /// Whether it takes a size: DeepFool and C&W look for a small one.
    pub fn takes_eps(&self) -> bool {
        !matches!(self.method, Some(Name::DeepFool | Name::Cw))
    }
}

/// What the command line changes of a suite.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    pub suite: Suite,
    /// Attacks in place of the suite's; empty for the suite's.
    pub attacks: Vec<Wanted>,
    /// Sizes of the attacks in the maximum norm that name none, in place of the suite's; empty for those.
    pub eps: Vec<f32>,
    /// Images that Square may ask the classifier about.
    pub queries: usize,
    /// Images that Square may ask the defended system about.
    pub defended_queries: usize,
    /// Steps of PGD through the defence; each costs a purification or, in expectation, several.
    pub defended_steps: usize,
    /// Of every attack's random numbers.
    pub seed: u64,
    /// Round attacked pictures to 8 bits.
    pub eight_bit: bool,
}

const LEVEL: f32 = 1.0 / 255.0;
/// The size of attacks in the maximum norm where nothing else is said: AutoAttack's for ImageNet.
const EPS: f32 = 4.0 * LEVEL;
/// A size at which nothing that a picture shows survives an attack that works.
pub const LARGE: f32 = 64.0 * LEVEL;

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
                "{name} does not go through the defence that way: square asks queries, the others follow \
                 identity, trajectory or decision"
            )));
        }
        let mut options = Map::new();
        if let Some(eps) = eps {
            options.insert("eps".into(), json!(eps));
        }
        if name == Name::Pgd {
            // 20 steps of torchattacks' size; longer ones where these would not reach the ball's edge.
            let eps = eps.unwrap_or(EPS);
            let steps = through.map_or(20, |_| self.defended_steps);
            let step_size = (2.0 * LEVEL).max(2.5 * eps / steps.max(1) as f32);
            options.insert("steps".into(), json!(steps));
            options.insert("step_size".into(), json!(step_size));
        }
        if name == Name::Square {
            let queries = through.map_or(self.queries, |_| self.defended_queries);
            options.insert("queries".into(), json!(queries));
        }
        let method = Method::with(name, &options)?;
        let case = Case::attack(method, through, self.seed, self.eight_bit);
        if let Kind::Static { attack } | Kind::Adaptive { attack, .. } = &case.kind {
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
                    through(Name::Square, Adaptive::new(Rule::Queries)),
                ]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_attack_on_the_classifier_is_a_transfer_to_every_defence() {
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
    fn methods_go_through_the_defence_in_their_own_way() {
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
