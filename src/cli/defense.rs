//! The defense's options.

use std::sync::Arc;

use crate::defense::{
    EvidenceOptions, LocalizeOptions, MapOptions, Options, PushOptions, ReconstructOptions,
    SettlingOptions, StitchMode, StitchOptions, VerdictOptions,
};
use crate::dip::{Padding, Preset, Upsample};
use crate::error::Result;
use crate::purifier::{Classifier, OpenDevices, Purifier, PurifierBuilder};

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Reconstruction")]
pub struct DefenseArgs {
    /// DIP network: tiles and cifar fit 32x32 tiles, skip and wide the whole image
    #[arg(long, value_enum, default_value_t = Preset::Tiles)]
    pub preset: Preset,
    /// Tile size in pixels; 0 for the whole image [default: the preset's]
    #[arg(long, value_name = "PIXELS")]
    pub tile: Option<usize>,
    /// Restarts an image, each with its own seed
    #[arg(long, value_name = "N")]
    pub restarts: Option<usize>,
    /// Whether each restart's tiles lie elsewhere on the image [default: true]
    #[arg(long, value_name = "true|false")]
    pub shift: Option<bool>,
    /// Adam steps a restart
    #[arg(long, value_name = "N")]
    pub iterations: Option<u32>,
    /// Adam steps between probes of the classifier [default: the preset's, at most all]
    #[arg(long, value_name = "N")]
    pub probe_interval: Option<u32>,
    /// Seed of the first restart
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// DIP instances that run at once [default: as many as the device runs well]
    #[arg(long, value_name = "N")]
    pub capacity: Option<usize>,
    /// Channels of the network's levels, first to last [default: the preset's]
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    pub channels: Option<Vec<usize>>,
    /// Channels of each level's skip branch [default: the preset's]
    #[arg(long, value_name = "N")]
    pub skip: Option<usize>,
    /// Channels of the network's input [default: the preset's]
    #[arg(long, value_name = "N")]
    pub input_depth: Option<usize>,
    /// How levels are upsampled [default: the preset's]
    #[arg(long, value_enum)]
    pub upsample: Option<Upsample>,
    /// How convolutions are padded [default: the preset's]
    #[arg(long, value_enum)]
    pub padding: Option<Padding>,
    /// Adam's step size [default: the preset's]
    #[arg(long, value_name = "X")]
    pub learning_rate: Option<f64>,
    /// Whether the network's input is optimized too [default: the preset's]
    #[arg(long, value_name = "true|false")]
    pub optimize_input: Option<bool>,
    /// Standard deviation of the noise added to the network's input in each iteration
    #[arg(long, value_name = "SIGMA")]
    pub jitter: Option<f32>,
    /// Weight of the past in the exponential average of the network's outputs, in [0, 1)
    #[arg(long, value_name = "GAMMA")]
    pub averaging: Option<f32>,

    /// Part of each trajectory that does not vote, in [0, 1)
    #[arg(long, value_name = "PART", help_heading = "Decision")]
    pub warm_up: Option<f64>,
    /// Reconstructions of each path whose segment to the input is probed; of a restart the last one first, and
    /// the others only if that does not show the recovered label
    #[arg(long, value_name = "N", help_heading = "Decision")]
    pub segments: Option<usize>,
    /// How far behind a reconstruction, away from the input, the map is probed too, as a part of their
    /// distance
    #[arg(long, value_name = "PART", help_heading = "Decision")]
    pub reach: Option<f32>,
    /// Points behind a reconstruction
    #[arg(long, value_name = "N", help_heading = "Decision")]
    pub reach_points: Option<usize>,
    /// Do not use mirror images, which otherwise vote too and are among the input's views: for text, digits and
    /// anything else whose meaning changes when it is mirrored
    #[arg(long, help_heading = "Decision")]
    pub no_mirror: bool,
    /// Standard deviation of the random noise on each point's third vote, pixels in [0, 1]; 0 for no such vote
    #[arg(long, value_name = "STD", help_heading = "Decision")]
    pub vote_noise: Option<f32>,
    /// How far the input's views, which show what an attack hides, are shifted, as a part of its size; 0 turns
    /// it off
    #[arg(long, value_name = "PART", help_heading = "Decision")]
    pub view_shift: Option<f64>,
    /// Points of a segment
    #[arg(long, value_name = "N", help_heading = "Decision")]
    pub segment_points: Option<usize>,
    /// Scores up to this are clean
    #[arg(long, value_name = "SCORE", help_heading = "Decision")]
    pub clean_below: Option<f64>,
    /// Scores from this on are adversarial
    #[arg(long, value_name = "SCORE", help_heading = "Decision")]
    pub adversarial_from: Option<f64>,
    /// Weight of the input's views in the evidence, where the votes have 1
    #[arg(long, value_name = "X", help_heading = "Decision")]
    pub view_weight: Option<f64>,
    /// How many of the views' standard deviations are subtracted from their mean
    #[arg(long, value_name = "X", help_heading = "Decision")]
    pub view_std_penalty: Option<f64>,
    /// The most that the views count in the score, for another label or against it; inf: as much as they say
    #[arg(long, value_name = "NATS", help_heading = "Decision")]
    pub view_bound: Option<f64>,
    /// Lead of the recovered label at which the score is 1/2
    #[arg(
        long,
        value_name = "NATS",
        allow_negative_numbers = true,
        help_heading = "Decision"
    )]
    pub neutral_lead: Option<f64>,
    /// Purify what looks clean too
    #[arg(long, help_heading = "Decision")]
    pub always: bool,
    /// End a picture's iterations when its verdict is settled: when, past the warm-up, as many probes of
    /// the consensus in a row as --settled-probes agree on it, and no score is closer to a threshold
    /// than --settled-margin
    #[arg(long, help_heading = "Decision")]
    pub stop_early: bool,
    /// Probes in a row that settle a verdict [default: 3]
    #[arg(
        long,
        value_name = "N",
        requires = "stop_early",
        help_heading = "Decision"
    )]
    pub settled_probes: Option<usize>,
    /// How far a settled verdict's scores are from the thresholds [default: 0.1]
    #[arg(
        long,
        value_name = "SCORE",
        requires = "stop_early",
        help_heading = "Decision"
    )]
    pub settled_margin: Option<f64>,

    /// Points probed in each round of the search for the boundary
    #[arg(long, value_name = "N", help_heading = "Restoration")]
    pub fan: Option<usize>,
    /// Precision of the search, as a part of the line between reconstruction and input
    #[arg(long, value_name = "PART", help_heading = "Restoration")]
    pub tolerance: Option<f32>,
    /// Push strengths to choose from, rising
    #[arg(
        long,
        value_name = "X,X,...",
        value_delimiter = ',',
        help_heading = "Restoration"
    )]
    pub push: Option<Vec<f32>>,
    /// Margin of the recovered label that a push should reach, in logits
    #[arg(long, value_name = "LOGITS", help_heading = "Restoration")]
    pub margin: Option<f64>,
    /// How restarts are joined
    #[arg(long, value_enum, help_heading = "Restoration")]
    pub stitch: Option<StitchMode>,
    /// Cell size of the mosaic, in pixels
    #[arg(long, value_name = "PIXELS", help_heading = "Restoration")]
    pub cell: Option<usize>,
}

impl DefenseArgs {
    /// The options, for images of `channels` channels.
    ///
    /// # Errors
    /// A number that cannot be used; the message names it.
    pub fn options(&self, channels: usize) -> Result<Options> {
        let options = Options {
            map: self.map(),
            verdict: self.verdict(),
            localize: self.localize(),
            push: self.push(),
            stitch: self.stitch(),
            stop_early: self.stop_early.then(|| self.settling()),
            always: self.always,
            ..Options::new(self.reconstruct(channels))
        };
        options.validate()?;
        Ok(options)
    }

    /// The description of a purifier of these options, which `adjust` changes.
    ///
    /// # Errors
    /// A number that cannot be used; the message names it.
    pub fn builder(
        &self,
        classifier: impl Into<Arc<Classifier>>,
        devices: OpenDevices,
        adjust: impl FnOnce(&mut Options),
    ) -> Result<PurifierBuilder> {
        let classifier = classifier.into();
        let mut options = self.options(classifier.shape().channels)?;
        adjust(&mut options);
        let mut builder = Purifier::builder(classifier)
            .options(options)
            .devices(devices);
        if let Some(capacity) = self.capacity {
            builder = builder.capacity(capacity);
        }
        Ok(builder)
    }

    fn reconstruct(&self, channels: usize) -> ReconstructOptions {
        let mut options = ReconstructOptions::preset(self.preset, channels);
        let spec = &mut options.spec;
        if let Some(levels) = &self.channels {
            let skip = spec.skip.first().copied().unwrap_or(0);
            spec.down = levels.clone();
            spec.up = levels.clone();
            spec.skip = vec![skip; levels.len()];
        }
        if let Some(skip) = self.skip {
            spec.skip.fill(skip);
        }
        spec.input_depth = self.input_depth.unwrap_or(spec.input_depth);
        spec.upsample = self.upsample.unwrap_or(spec.upsample);
        spec.padding = self.padding.unwrap_or(spec.padding);
        spec.learning_rate = self.learning_rate.unwrap_or(spec.learning_rate);
        spec.optimize_input = self.optimize_input.unwrap_or(spec.optimize_input);
        spec.jitter = self.jitter.unwrap_or(spec.jitter);
        spec.averaging = self.averaging.unwrap_or(spec.averaging);
        match self.tile {
            Some(0) => options.tile = None,
            Some(tile) => options.tile = Some(tile),
            None => {}
        }
        options.restarts = self.restarts.unwrap_or(options.restarts);
        options.shift = self.shift.unwrap_or(options.shift);
        options.iterations = self.iterations.unwrap_or(options.iterations);
        let usual = options.probe_interval.min(options.iterations.max(1));
        options.probe_interval = self.probe_interval.unwrap_or(usual);
        options.seed = self.seed.unwrap_or(options.seed);
        options
    }

    fn map(&self) -> MapOptions {
        let default = MapOptions::default();
        MapOptions {
            warm_up: self.warm_up.unwrap_or(default.warm_up),
            segments: self.segments.unwrap_or(default.segments),
            segment_points: self.segment_points.unwrap_or(default.segment_points),
            reach: self.reach.unwrap_or(default.reach),
            reach_points: self.reach_points.unwrap_or(default.reach_points),
            mirror: !self.no_mirror,
            vote_noise: self.vote_noise.unwrap_or(default.vote_noise),
            view_shift: self.view_shift.unwrap_or(default.view_shift),
        }
    }

    fn verdict(&self) -> VerdictOptions {
        let default = VerdictOptions::default();
        VerdictOptions {
            clean_below: self.clean_below.unwrap_or(default.clean_below),
            adversarial_from: self.adversarial_from.unwrap_or(default.adversarial_from),
            evidence: self.evidence(),
        }
    }

    fn evidence(&self) -> EvidenceOptions {
        let default = EvidenceOptions::default();
        EvidenceOptions {
            view_weight: self.view_weight.unwrap_or(default.view_weight),
            view_std_penalty: self.view_std_penalty.unwrap_or(default.view_std_penalty),
            view_bound_nats: self.view_bound.unwrap_or(default.view_bound_nats),
            neutral_lead_nats: self.neutral_lead.unwrap_or(default.neutral_lead_nats),
        }
    }

    fn settling(&self) -> SettlingOptions {
        let default = SettlingOptions::default();
        SettlingOptions {
            probes: self.settled_probes.unwrap_or(default.probes),
            margin: self.settled_margin.unwrap_or(default.margin),
        }
    }

    fn localize(&self) -> LocalizeOptions {
        let default = LocalizeOptions::default();
        LocalizeOptions {
            fan: self.fan.unwrap_or(default.fan),
            tolerance: self.tolerance.unwrap_or(default.tolerance),
        }
    }

    fn push(&self) -> PushOptions {
        let default = PushOptions::default();
        PushOptions {
            strengths: self.push.clone().unwrap_or(default.strengths),
            margin: self.margin.unwrap_or(default.margin),
        }
    }

    fn stitch(&self) -> StitchOptions {
        let default = StitchOptions::default();
        StitchOptions {
            mode: self.stitch.unwrap_or(default.mode),
            cell: self.cell.unwrap_or(default.cell),
        }
    }
}
