//! The lines of `results.jsonl`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use crate::attack::Attacked;
use crate::defense::{PathOutcome, Verdict};
use crate::input::Item;
use crate::picture::{ImageShape, Picture, psnr, ssim};
use crate::scheduler::Purified;

/// One line of `results.jsonl`: everything about one image.
///
/// Fields that do not apply (an attack has no verdict, a failed image no labels) are left out. `label` is always
/// there; it is null if the input gives no true label.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The item's id: its name in the input tree.
    pub image: String,
    /// The true label, if the input gives one.
    pub label: Option<usize>,
    /// What the classifier says of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_label: Option<usize>,
    /// Probability of `input_label` at the input, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_confidence: Option<f32>,
    /// What the classifier says of the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_label: Option<usize>,
    /// Probability of `output_label` at the output, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_confidence: Option<f32>,
    /// Whether the input is held to be adversarial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// How strongly the evidence speaks for the recovered label against the input label, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// PSNR of the output against the input, in dB; infinite, which is null in JSON, if they are equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psnr: Option<f64>,
    /// SSIM of the output against the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssim: Option<f64>,
    /// Iterations of all restarts together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u64>,
    /// Seconds that the device spent on the picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// What each restart contributed, in the restarts' order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<Vec<PathOutcome>>,
    /// The output picture's file, relative to the run folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Why the image failed; of the fields above only `image` and `label` are then there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The manifest's fields of the image other than `file` and `label`.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub manifest: Map<String, serde_json::Value>,
    /// Other fields.
    #[serde(flatten)]
    pub more: Map<String, serde_json::Value>,
}

impl ImageRecord {
    /// The record of an image that could not be read or computed.
    ///
    /// `error` is one line that spells options as the command line does.
    pub fn failed(item: &Item, error: String) -> Self {
        ImageRecord {
            error: Some(error),
            ..Self::of(item)
        }
    }

    /// The record of a purified picture, on which its device spent `seconds`.
    pub fn purified(item: &Item, purified: &Purified, seconds: f64) -> Self {
        let of_item = Self::of(item);
        ImageRecord {
            image: of_item.image,
            label: of_item.label,
            manifest: of_item.manifest,
            ..Self::unnamed(purified, seconds)
        }
    }

    /// The record of a purified picture that has no name and no true label.
    pub fn unnamed(purified: &Purified, seconds: f64) -> Self {
        let Purified { input, outcome } = purified;
        let mut more = Map::new();
        more.insert("recovered_label".into(), json!(outcome.recovered_label));
        more.insert("support".into(), json!(outcome.support));
        if let Some(consensus) = &outcome.consensus {
            more.insert("consensus".into(), json!(consensus));
        }
        if let Some(fallback) = outcome.fallback {
            more.insert("fallback".into(), json!(fallback));
        }
        if outcome.nudge_steps > 0 {
            more.insert("nudge_steps".into(), json!(outcome.nudge_steps));
        }
        ImageRecord {
            input_label: Some(outcome.input.label()),
            input_confidence: Some(outcome.input.confidence() as f32),
            output_label: Some(outcome.output.label()),
            output_confidence: Some(outcome.output.confidence() as f32),
            verdict: Some(outcome.verdict),
            score: Some(outcome.score as f32),
            psnr: Some(psnr(&outcome.pixels, &input.pixels)),
            ssim: Some(ssim(input.shape, &outcome.pixels, &input.pixels)),
            iterations: Some(outcome.iterations),
            seconds: Some(seconds),
            restarts: Some(outcome.restarts.clone()),
            more,
            ..ImageRecord::default()
        }
    }

    /// The record of an attacked picture; `picture` is the clean one.
    pub fn attacked(item: &Item, picture: &Picture, attacked: &Attacked) -> Self {
        let more = [
            ("success", json!(attacked.success)),
            ("aim", json!(attacked.aim)),
            ("linf", json!(attacked.linf)),
            ("l2", json!(attacked.l2)),
        ];
        ImageRecord {
            input_label: Some(attacked.input.label()),
            input_confidence: Some(attacked.input.confidence() as f32),
            output_label: Some(attacked.output.label()),
            output_confidence: Some(attacked.output.confidence() as f32),
            psnr: Some(psnr(&attacked.pixels, &picture.pixels)),
            ssim: Some(ssim(picture.shape, &attacked.pixels, &picture.pixels)),
            more: more
                .map(|(name, value)| (name.to_owned(), value))
                .into_iter()
                .collect(),
            ..Self::of(item)
        }
    }

    /// The record of `item` with what the input says, and no results.
    pub fn of(item: &Item) -> Self {
        ImageRecord {
            image: item.id.clone(),
            label: item.label,
            manifest: item.more.clone(),
            ..ImageRecord::default()
        }
    }
}

/// The pixels of an input and its output.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    /// The shape of both.
    pub shape: ImageShape,
    /// The input, CHW in `[0, 1]`.
    pub input: &'a [f32],
    /// The output, CHW in `[0, 1]`.
    pub output: &'a [f32],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_the_documented_names_and_order() {
        let record = ImageRecord {
            image: "n02123045/x.png".into(),
            label: Some(281),
            input_label: Some(285),
            input_confidence: Some(0.97),
            output_label: Some(281),
            output_confidence: Some(0.88),
            verdict: Some(Verdict::Adversarial),
            score: Some(0.93),
            psnr: Some(31.2),
            ssim: Some(0.93),
            iterations: Some(1200),
            seconds: Some(0.41),
            restarts: Some(vec![PathOutcome {
                seed: Some(1),
                crossing: Some(340),
                alpha: Some(0.42),
                push: Some(0.25),
                margin: Some(3.1),
                boundary: Some(0.5),
            }]),
            ..ImageRecord::default()
        };
        let line = serde_json::to_string(&record).unwrap();
        assert_eq!(
            line,
            "{\"image\":\"n02123045/x.png\",\"label\":281,\"input_label\":285,\
             \"input_confidence\":0.97,\"output_label\":281,\"output_confidence\":0.88,\
             \"verdict\":\"adversarial\",\"score\":0.93,\"psnr\":31.2,\"ssim\":0.93,\
             \"iterations\":1200,\"seconds\":0.41,\"restarts\":[{\"seed\":1,\"crossing\":340,\
             \"alpha\":0.42,\"push\":0.25,\"margin\":3.1,\"boundary\":0.5}]}"
        );
        assert_eq!(serde_json::from_str::<ImageRecord>(&line).unwrap(), record);
    }

    #[test]
    fn what_is_unknown_is_null_and_what_does_not_apply_is_absent() {
        let failed = ImageRecord {
            image: "x.png".into(),
            error: Some("x.png: is empty".into()),
            ..ImageRecord::default()
        };
        let line = serde_json::to_string(&failed).unwrap();
        assert_eq!(
            line,
            r#"{"image":"x.png","label":null,"error":"x.png: is empty"}"#
        );
        let same = ImageRecord {
            psnr: Some(f64::INFINITY),
            ..ImageRecord::default()
        };
        let line = serde_json::to_string(&same).unwrap();
        assert_eq!(line, r#"{"image":"","label":null,"psnr":null}"#);
    }

    #[test]
    fn other_fields_survive() {
        let line = r#"{"image":"a","label":null,"attack":"pgd","fallback":true}"#;
        let record: ImageRecord = serde_json::from_str(line).unwrap();
        assert_eq!(record.more["attack"], "pgd");
        assert_eq!(serde_json::to_string(&record).unwrap(), line);
    }
}
