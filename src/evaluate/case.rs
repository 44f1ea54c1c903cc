//! One attack of an evaluation: what is done to each picture before the defenses get it.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use super::row::{BACKSTITCH, NONE};
use crate::attack::adaptive::{Adaptive, Rule, Seeds};
use crate::attack::{AttackOptions, Ball, Method, Norm, Target};

/// One attack of an evaluation, also noise and no attack at all: what is done to each picture before the
/// defenses get it.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// Short and unique: `pgd-linf-4`.
    pub name: String,
    /// For people: `PGD-20, L∞ 4/255`.
    pub title: String,
    /// How the pictures are made.
    #[serde(flatten)]
    pub kind: CaseKind,
}

/// Where a case's pictures come from.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum CaseKind {
    /// The pictures themselves.
    Clean,
    /// Random noise: each value moves by `eps` up or down, at random.
    Noise {
        /// Change of each value, for pixels in `[0, 1]`.
        eps: f32,
        /// Seed of the random numbers.
        seed: u64,
    },
    /// An attack on the classifier alone.
    Static {
        /// The attack and its numbers.
        attack: AttackOptions,
    },
    /// An attack on the classifier behind the whole defense.
    Adaptive {
        /// The attack and its numbers.
        attack: AttackOptions,
        /// How the attack gets through the defense.
        through: Adaptive,
    },
    /// An attack that others made.
    Given,
}

/// What an attack knew of the defense whose accuracy is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Threat {
    /// There was no attack.
    Clean,
    /// There was no attack, only random noise.
    Noise,
    /// The attack followed gradients of this defense.
    WhiteBox,
    /// The attack used this defense's answers, without gradients.
    BlackBox,
    /// The attack was made on this defense, along an approximation of its gradient.
    Adaptive,
    /// The attack was made on another victim than this defense.
    Transfer,
    /// Another program made the attack; its threat model is not known.
    Unknown,
}

impl Threat {
    /// The threat's name in results.
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

impl Case {
    /// The pictures as they are.
    pub fn clean() -> Case {
        Case {
            name: "clean".into(),
            title: "clean".into(),
            kind: CaseKind::Clean,
        }
    }

    /// The pictures that others attacked, by the name `attack`.
    pub fn given(attack: &str) -> Case {
        Case {
            name: format!("given:{attack}"),
            title: format!("{attack} (given)"),
            kind: CaseKind::Given,
        }
    }

    pub(super) fn noise(eps: f32, seed: u64) -> Case {
        Case {
            name: format!("noise-linf-{}", short(eps)),
            title: format!("random ± noise, L∞ {}", fraction(eps)),
            kind: CaseKind::Noise { eps, seed },
        }
    }

    pub(super) fn attack(
        method: Method,
        through: Option<Adaptive>,
        seed: u64,
        eight_bit: bool,
    ) -> Case {
        let ball = method.attack().ball();
        let parameters = serde_json::to_value(&method).unwrap_or_default();
        let known = |key: &str| parameters.get(key).and_then(Value::as_u64);
        let mut name = parameters["method"].as_str().unwrap_or_default().to_owned();
        let mut title = match name.as_str() {
            "deepfool" => "DeepFool".to_owned(),
            "cw" => "C&W".to_owned(),
            "square" => "Square".to_owned(),
            "pgd-views" => "PGD-views".to_owned(),
            "pgd-low" => "PGD-low".to_owned(),
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
            None => CaseKind::Static { attack },
            Some(through) => {
                let (tag, words) = way(through);
                let _ = write!(name, "@{tag}");
                let _ = write!(title, ", {words}");
                CaseKind::Adaptive { attack, through }
            }
        };
        Case { name, title, kind }
    }

    /// The ball that bounds the change; `None` if there is no bound.
    pub fn budget(&self) -> Option<Ball> {
        match &self.kind {
            CaseKind::Clean | CaseKind::Given => None,
            CaseKind::Noise { eps, .. } => Some(Ball {
                norm: Norm::Linf,
                eps: *eps,
            }),
            CaseKind::Static { attack } | CaseKind::Adaptive { attack, .. } => {
                attack.method.attack().ball()
            }
        }
    }

    /// The attack's method; `None` for clean pictures, noise, and attacks that others made.
    pub fn method(&self) -> Option<&Method> {
        match &self.kind {
            CaseKind::Static { attack } | CaseKind::Adaptive { attack, .. } => Some(&attack.method),
            CaseKind::Clean | CaseKind::Noise { .. } | CaseKind::Given => None,
        }
    }

    /// Whether this is an attack: neither clean nor noise.
    pub fn is_attack(&self) -> bool {
        !matches!(self.kind, CaseKind::Clean | CaseKind::Noise { .. })
    }

    /// Whether these are the pictures themselves.
    pub fn is_clean(&self) -> bool {
        matches!(self.kind, CaseKind::Clean)
    }

    /// Whether others made the attack.
    pub fn is_given(&self) -> bool {
        matches!(self.kind, CaseKind::Given)
    }

    /// Whether the attack was made on the classifier behind the whole defense.
    pub fn is_adaptive(&self) -> bool {
        matches!(self.kind, CaseKind::Adaptive { .. })
    }

    /// What the attack knew of `defense`.
    pub fn threat(&self, defense: &str) -> Threat {
        match &self.kind {
            CaseKind::Clean => Threat::Clean,
            CaseKind::Noise { .. } => Threat::Noise,
            CaseKind::Given => Threat::Unknown,
            CaseKind::Static { attack } if defense == NONE => match attack.method {
                Method::Square(_) => Threat::BlackBox,
                _ => Threat::WhiteBox,
            },
            CaseKind::Adaptive { through, .. } if defense == BACKSTITCH => match through.rule {
                Rule::Queries => Threat::BlackBox,
                _ => Threat::Adaptive,
            },
            CaseKind::Static { .. } | CaseKind::Adaptive { .. } => Threat::Transfer,
        }
    }
}

/// How an attack gets through the defense: a tag for names, and words for people.
fn way(through: Adaptive) -> (String, String) {
    let rule = match through.rule {
        Rule::Queries => "queries",
        Rule::Identity => "identity",
        Rule::Trajectory => "trajectory",
        Rule::Decision => "decision",
        Rule::Ways => "ways",
    };
    let (mut tag, mut words) = (rule.to_owned(), format!("through the defense by {rule}"));
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

/// A change of pixels as a fraction: `4/255`.
pub(super) fn fraction(eps: f32) -> String {
    format!("{}/255", short(eps))
}
