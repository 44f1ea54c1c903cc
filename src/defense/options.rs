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
    pub reconstruct: ReconstructOptions,
    pub map: MapOptions,
    pub verdict: VerdictOptions,
    /// Recorded under the name that runs of earlier versions have, so that they can be resumed.
    #[serde(rename = "localise")]
    pub localize: LocalizeOptions,
    pub push: PushOptions,
    pub stitch: StitchOptions,
    /// When an image's verdict is settled before its last iteration, so that it ends there; `None`: all
    /// images run to their end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_early: Option<SettlingOptions>,
    /// Purify what looks clean too.
    pub always: bool,
    /// Round outputs to 8 bits before they are judged, as an 8-bit file will.
    pub eight_bit: bool,
    /// Draw the whole decision map of every picture, to be looked at: trajectories of what is clean, and lines
    /// to the input of what is not adversarial, too. Changes no result.
    #[serde(skip)]
    pub whole_maps: bool,
    /// Show what shorter versions of the method would have given too, which draws whole maps. Changes no
    /// result.
    #[serde(skip)]
    pub ablations: bool,
}

impl Options {
    /// The defaults for a way to reconstruct.
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
        let want = "reconstruct map verdict localize push stitch always eight_bit";
        assert_eq!(keys.join(" "), want);
    }
}
