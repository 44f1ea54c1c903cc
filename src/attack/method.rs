//! The attacks by name, and their options.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::algorithm::Attack;
use super::apgd::{Apgd, ApgdCe, ApgdDlr, ApgdT};
use super::ball::Norm;
use super::carlini_wagner::CarliniWagner;
use super::deepfool::DeepFool;
use super::low_frequency::PgdLow;
use super::projected_gradient::{Bim, Fgsm, MiFgsm, Pgd, PgdL2};
use super::square::Square;
use super::transferable::{DiFgsm, PgdViews, SiNiFgsm, TiFgsm, VmiFgsm};
use crate::error::{Error, Result};

/// An attack's name, in options and records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Name {
    /// Goodfellow et al. 2015: one step along the gradient's sign
    Fgsm,
    /// Kurakin et al. 2017: FGSM in small steps
    Bim,
    /// Madry et al. 2018: BIM from a random start
    Pgd,
    /// PGD in the Euclidean ball
    #[serde(rename = "pgd-l2")]
    #[cfg_attr(feature = "cli", value(name = "pgd-l2"))]
    PgdL2,
    /// Dong et al. 2018: BIM along an accumulated gradient
    #[cfg_attr(feature = "cli", value(alias = "mifgsm"))]
    MiFgsm,
    /// Xie et al. 2019: MI-FGSM on images of random size and place
    #[cfg_attr(feature = "cli", value(alias = "difgsm"))]
    DiFgsm,
    /// Dong et al. 2019: DI-FGSM along a smoothed gradient
    #[cfg_attr(feature = "cli", value(alias = "tifgsm"))]
    TiFgsm,
    /// Wang and He 2021: MI-FGSM, corrected by the gradients around the image
    #[cfg_attr(feature = "cli", value(alias = "vmifgsm"))]
    VmiFgsm,
    /// Lin et al. 2020: MI-FGSM one step ahead, over darker copies of the image
    #[cfg_attr(feature = "cli", value(alias = "sinifgsm"))]
    SiNiFgsm,
    /// PGD averaged over the image and the views of it that the defense looks at
    PgdViews,
    /// PGD with a coarse change, which reconstructions keep
    PgdLow,
    /// Moosavi-Dezfooli et al. 2016: a small change in the Euclidean norm, by linearization
    #[serde(rename = "deepfool")]
    #[cfg_attr(feature = "cli", value(name = "deepfool"))]
    DeepFool,
    /// Carlini and Wagner 2017: a small change in the Euclidean norm, by optimization
    #[cfg_attr(feature = "cli", value(alias = "cw-l2"))]
    Cw,
    /// Croce and Hein 2020: PGD that sets its own step size, on the cross-entropy
    ApgdCe,
    /// The same on the difference of logits ratio
    ApgdDlr,
    /// The same, aimed at one class after another
    ApgdT,
    /// Andriushchenko et al. 2020: random search without gradients
    Square,
}

/// Any attack of this crate, with its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum Method {
    /// One step along the sign of the gradient.
    Fgsm(Fgsm),
    /// FGSM in several small steps, from the image itself.
    Bim(Bim),
    /// BIM from a random start.
    Pgd(Pgd),
    /// PGD in the Euclidean ball.
    #[serde(rename = "pgd-l2")]
    PgdL2(PgdL2),
    /// BIM along an accumulated gradient (momentum).
    MiFgsm(MiFgsm),
    /// MI-FGSM on images of random size and place.
    DiFgsm(DiFgsm),
    /// DI-FGSM along a smoothed gradient.
    TiFgsm(TiFgsm),
    /// MI-FGSM, corrected by the gradients around the image.
    VmiFgsm(VmiFgsm),
    /// MI-FGSM one step ahead, over darker copies of the image.
    SiNiFgsm(SiNiFgsm),
    /// PGD averaged over the image and its views.
    PgdViews(PgdViews),
    /// PGD with a change of one value a block of pixels.
    PgdLow(PgdLow),
    /// Steps to the nearest linearized boundary until the label changes.
    #[serde(rename = "deepfool")]
    DeepFool(DeepFool),
    /// Adam on the squared distance and the margin: Carlini and Wagner's attack in the Euclidean norm.
    Cw(CarliniWagner),
    /// Auto-PGD on the cross-entropy.
    ApgdCe(ApgdCe),
    /// Auto-PGD on the difference of logits ratio.
    ApgdDlr(ApgdDlr),
    /// Auto-PGD on the targeted difference of logits ratio, for one class after another.
    ApgdT(ApgdT),
    /// Random search with squares, without gradients.
    Square(Square),
}

impl Name {
    /// Every attack.
    pub const ALL: [Name; 17] = [
        Name::Fgsm,
        Name::Bim,
        Name::Pgd,
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
    ];

    /// Whether the attack can be targeted.
    pub fn takes_target(self) -> bool {
        !matches!(self, Name::DeepFool | Name::ApgdT)
    }

    /// Whether the attack asks its victim for gradients.
    pub fn follows_gradients(self) -> bool {
        !matches!(self, Name::Square)
    }

    /// Whether the attack draws random numbers.
    pub fn is_random(self) -> bool {
        !matches!(
            self,
            Name::Fgsm | Name::Bim | Name::MiFgsm | Name::SiNiFgsm | Name::DeepFool | Name::Cw
        )
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

impl Method {
    /// The attack with its defaults; `norm` matters only to attacks that take one.
    pub fn new(name: Name, norm: Norm) -> Method {
        match name {
            Name::Fgsm => Method::Fgsm(Fgsm::default()),
            Name::Bim => Method::Bim(Bim::default()),
            Name::Pgd => Method::Pgd(Pgd::default()),
            Name::PgdL2 => Method::PgdL2(PgdL2::default()),
            Name::MiFgsm => Method::MiFgsm(MiFgsm::default()),
            Name::DiFgsm => Method::DiFgsm(DiFgsm::default()),
            Name::TiFgsm => Method::TiFgsm(TiFgsm::default()),
            Name::VmiFgsm => Method::VmiFgsm(VmiFgsm::default()),
            Name::SiNiFgsm => Method::SiNiFgsm(SiNiFgsm::default()),
            Name::PgdViews => Method::PgdViews(PgdViews::default()),
            Name::PgdLow => Method::PgdLow(PgdLow::default()),
            Name::DeepFool => Method::DeepFool(DeepFool::default()),
            Name::Cw => Method::Cw(CarliniWagner::default()),
            Name::ApgdCe => Method::ApgdCe(ApgdCe(Apgd::new(norm))),
            Name::ApgdDlr => Method::ApgdDlr(ApgdDlr(Apgd::new(norm))),
            Name::ApgdT => Method::ApgdT(ApgdT::new(norm)),
            Name::Square => Method::Square(Square::new(norm)),
        }
    }

    /// The attack with some options set, by the names that they have in `run.json`.
    ///
    /// # Errors
    /// An option that the attack does not have.
    pub fn with(name: Name, options: &Map<String, Value>) -> Result<Method> {
        let norm = match options.get("norm") {
            Some(norm) => serde_json::from_value(norm.clone()).map_err(unusable)?,
            None => Norm::default(),
        };
        let mut all = serde_json::to_value(Method::new(name, norm)).map_err(unusable)?;
        for (option, value) in options {
            match all.get_mut(option) {
                Some(place) if option != "method" => *place = value.clone(),
                _ => return Err(no_use(name, option, &all)),
            }
        }
        serde_json::from_value(all).map_err(unusable)
    }

    /// The attack itself.
    pub fn attack(&self) -> &dyn Attack {
        match self {
            Method::Fgsm(attack) => attack,
            Method::Bim(attack) => attack,
            Method::Pgd(attack) => attack,
            Method::PgdL2(attack) => attack,
            Method::MiFgsm(attack) => attack,
            Method::DiFgsm(attack) => attack,
            Method::TiFgsm(attack) => attack,
            Method::VmiFgsm(attack) => attack,
            Method::SiNiFgsm(attack) => attack,
            Method::PgdViews(attack) => attack,
            Method::PgdLow(attack) => attack,
            Method::DeepFool(attack) => attack,
            Method::Cw(attack) => attack,
            Method::ApgdCe(attack) => attack,
            Method::ApgdDlr(attack) => attack,
            Method::ApgdT(attack) => attack,
            Method::Square(attack) => attack,
        }
    }
}

fn unusable(error: serde_json::Error) -> Error {
    Error::invalid(format!("an attack's options: {error}"))
}

/// The error for an `option` that is not in `all`.
fn no_use(name: Name, option: &str, all: &Value) -> Error {
    let known = all.as_object().into_iter().flatten().map(|(key, _)| key);
    let known: Vec<String> = known
        .filter(|key| *key != "method")
        .map(|key| format!("`{key}`"))
        .collect();
    Error::option(option, format!("is no option of {name}"))
        .hint(format!("its options are {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    #[cfg(feature = "cli")]
    fn the_command_line_has_every_attack_by_its_name() {
        use clap::ValueEnum;
        assert_eq!(Name::value_variants(), Name::ALL);
        for name in Name::ALL {
            assert_eq!(Name::from_str(&name.to_string(), false), Ok(name));
        }
    }

    #[test]
    fn every_method_survives_json() {
        for name in Name::ALL {
            for norm in [Norm::Linf, Norm::L2] {
                let method = Method::new(name, norm);
                let value = serde_json::to_value(&method).unwrap();
                assert_eq!(value["method"], name.to_string());
                assert_eq!(serde_json::from_value::<Method>(value).unwrap(), method);
            }
        }
    }

    #[test]
    fn options_are_set_by_name_and_others_refused() {
        let with = |name, options: Value| Method::with(name, options.as_object().unwrap());
        let Method::ApgdT(attack) = with(
            Name::ApgdT,
            json!({"norm": "l2", "targets": 3, "restarts": 2}),
        )
        .unwrap() else {
            panic!("another attack");
        };
        assert_eq!((attack.targets, attack.search.restarts), (3, 2));
        assert_eq!(attack.search.norm, Norm::L2);
        assert_eq!(attack.search.eps, 1.0, "the radius is the norm's");
        let Method::Pgd(attack) =
            with(Name::Pgd, json!({"eps": 0.03f32, "random_start": false})).unwrap()
        else {
            panic!("another attack");
        };
        assert_eq!((attack.eps, attack.random_start), (0.03, false));
        for (name, options, said) in [
            (
                Name::Fgsm,
                json!({"steps": 3}),
                "`steps` is no option of fgsm; its options are `eps`",
            ),
            (Name::DeepFool, json!({"eps": 0.1}), "`overshoot`"),
            (Name::Square, json!({"step_size": 0.1}), "`queries`"),
            (
                Name::Bim,
                json!({"random_start": false}),
                "`random_start` is no option of bim",
            ),
            (Name::Pgd, json!({"method": "fgsm"}), "options"),
        ] {
            let error = with(name, options).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
