//! Every stage's options.

use super::localize::LocalizeOptions;
use super::map_options::MapOptions;
use super::push::PushOptions;
use super::reconstruct::ReconstructOptions;
use super::settling::SettlingOptions;
use super::stitch::StitchOptions;
use super::verdict::VerdictOptions;
use crate::error::Result;

/// Every stage's options.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Options {
    /// How the input is reconstructed: network, tiles, restarts, iterations.
    pub reconstruct: ReconstructOptions,
    /// What of the decision map is probed.
    pub map: MapOptions,
    /// How the verdict is reached from the evidence.
    pub verdict: VerdictOptions,
    /// How on-boundary images are searched for. Recorded under the name in runs of earlier versions, so that
    /// those can be resumed.
    #[serde(rename = "localise")]
    pub localize: LocalizeOptions,
    /// How far on-boundary images are pushed away from the input.
    pub push: PushOptions,
    /// How on-manifold images become one picture.
    pub stitch: StitchOptions,
    /// When a verdict is settled, so that the image stops before its last iteration; `None`: no image stops
    /// early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_early: Option<SettlingOptions>,
    /// Purify pictures with the verdict `clean` too.
    pub always: bool,
    /// Round outputs to 8 bits, as an 8-bit file does, before they are classified.
    pub eight_bit: bool,
    /// Probe the whole decision map of every picture, for people to look at: trajectories and whole segments of
    /// clean and undecided pictures too. Changes no result.
    #[serde(skip)]
    pub whole_maps: bool,
    /// Compute the outputs of the method's ablations too, which probes whole maps. Changes no result.
    #[serde(skip)]
    pub ablations: bool,
}

/// What a picture may have of its own, in place of the [`Options`] of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnOptions {
    /// The seed of restart 0; restart `r` has `seed + r`.
    pub seed: u64,
    /// Whether to purify the picture even if its verdict is `clean`.
    pub always: bool,
}

impl Options {
    /// These options of the reconstruction, with the defaults of all other stages.
    pub fn new(reconstruct: ReconstructOptions) -> Self {
        Options {
            reconstruct,
            map: MapOptions::default(),
            verdict: VerdictOptions::default(),
            localize: LocalizeOptions::default(),
            push: PushOptions::default(),
            stitch: StitchOptions::default(),
            stop_early: None,
            always: false,
            eight_bit: true,
            whole_maps: false,
            ablations: false,
        }
    }

    /// The options of a picture that asks for none of its own.
    pub fn own(&self) -> OwnOptions {
        OwnOptions {
            seed: self.reconstruct.seed,
            always: self.always,
        }
    }

    /// Checks every stage's numbers.
    pub fn validate(&self) -> Result<()> {
        self.reconstruct.validate()?;
        self.map.validate()?;
        self.verdict.validate()?;
        self.localize.validate()?;
        self.push.validate()?;
        self.stitch.validate()?;
        self.stop_early.as_ref().map_or(Ok(()), |o| o.validate())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dip::Preset;

    #[test]
    fn options_are_recorded_under_the_names_of_earlier_runs() {
        let options = Options::new(ReconstructOptions::preset(Preset::Tiles, 3));
        let value = serde_json::to_value(options).unwrap();
        let keys: Vec<&str> = value
            .as_object()
            .unwrap()
            .keys()
            .map(|key| &**key)
            .collect();
        let want = "reconstruct map verdict localise push stitch always eight_bit";
        assert_eq!(keys.join(" "), want);
    }
}
