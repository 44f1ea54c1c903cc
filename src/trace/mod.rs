//! One picture's trajectories and its path through the decision space: as SVG, PNG and JSON.

mod decision_map;
mod decision_path;
mod drawing;
#[cfg(feature = "draw")]
mod raster;
mod style;
mod subject;
mod trajectories;

use serde_json::{Value, json};

#[cfg(feature = "draw")]
pub use self::raster::png;
pub use self::subject::Trace;
use crate::defense::{PathOutcome, Reading, Segment, TrajectoryPoint};
use crate::picture::{psnr, ssim};
use crate::run::report::trajectories::paths;

impl Trace<'_> {
    /// The drawing, an SVG file of 1240 × 900 pixels; equal traces give equal bytes.
    ///
    /// At most 15 restarts and the consensus are drawn, and at most 256 probes of a trajectory.
    pub fn svg(&self) -> String {
        drawing::draw(self)
    }

    /// Everything that was probed, with the results that the drawing shows.
    ///
    /// `margin` of a point is the recovered label's logit less the input label's. `position` is 0 at the
    /// reconstruction, 1 at the input, negative behind the reconstruction. `mirrored` is the reading of the
    /// point's mirror image, and `noisy` that of the point with noise, if they vote too. Numbers that are not finite are null.
    pub fn json(&self) -> Value {
        let outcome = self.outcome;
        let map = &outcome.map;
        let probes = |point: &TrajectoryPoint| {
            let mut value = self.reading(&point.reading);
            value["iteration"] = json!(point.iteration);
            value["psnr"] = json!(point.psnr);
            value
        };
        let segment = |segment: &Segment| {
            let point = |point: &crate::defense::SegmentPoint| {
                let mut value = self.reading(&point.reading);
                value["position"] = json!(point.t);
                for (twin, reading) in [("mirrored", &point.mirrored), ("noisy", &point.noisy)] {
                    if let Some(reading) = reading {
                        value[twin] = self.reading(reading);
                    }
                }
                value
            };
            json!({
                "iteration": self.iteration(segment.probe),
                "points": segment.points.iter().map(point).collect::<Vec<_>>(),
            })
        };
        let path = |(path, of): (usize, &PathOutcome)| {
            json!({
                "path": style::path_name(of),
                "outcome": of,
                "trajectory": map.trajectories[path].iter().map(probes).collect::<Vec<_>>(),
                "segments": map.segments[path].iter().map(segment).collect::<Vec<_>>(),
            })
        };
        let support = outcome.support.iter();
        let support = support.map(|(label, support)| {
            json!({ "label": label, "name": self.name(*label), "support": support })
        });
        json!({
            "backstitch": env!("CARGO_PKG_VERSION"),
            "image": self.image,
            "label": self.truth,
            "label_name": self.truth.and_then(|label| self.name(label)),
            "input": self.named(&outcome.input),
            "recovered_label": outcome.recovered_label,
            "recovered_name": outcome.recovered_label.and_then(|label| self.name(label)),
            "output": self.named(&outcome.output),
            "verdict": outcome.verdict,
            "score": outcome.score,
            "fallback": outcome.fallback,
            "psnr": psnr(&outcome.pixels, &self.picture.pixels),
            "ssim": ssim(self.picture.shape, &outcome.pixels, &self.picture.pixels),
            "iterations": outcome.iterations,
            "support": support.collect::<Vec<_>>(),
            "paths": paths(outcome).enumerate().map(path).collect::<Vec<_>>(),
        })
    }

    /// A reading of one point of the map.
    fn reading(&self, reading: &Reading) -> Value {
        json!({
            "label": reading.label(),
            "confidence": reading.confidence(),
            "margin": self.principal_labels().map(|labels| labels.lead(reading)),
        })
    }

    /// A reading with its label's name.
    fn named(&self, reading: &Reading) -> Value {
        let mut value = self.reading(reading);
        value["name"] = json!(self.name(reading.label()));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defense::Outcome;
    use crate::picture::Picture;
    use crate::picture::rgb;
    use crate::run::report::test_outcome::outcome;

    /// The SVG and the JSON of an outcome.
    fn traced(outcome: &Outcome, image: &str) -> (String, Value) {
        let picture = Picture::from_rgb8(&[0; 3], rgb(1, 1));
        let trace = Trace {
            image,
            picture: &picture,
            truth: Some(2),
            outcome,
            classes: None,
        };
        (trace.svg(), trace.json())
    }

    /// Filled elements of a color.
    fn count(svg: &str, color: &str) -> usize {
        svg.matches(&format!("fill=\"{color}\"")).count()
    }

    #[test]
    fn every_probe_is_in_its_color_in_the_strip_the_map_and_the_plane() {
        let outcome = outcome(&[("oTAT", "TTAA"), ("ooTT", "TTTA")]);
        let (svg, _) = traced(&outcome, "x.png");
        let recovered = style::color(crate::run::report::role::Role::Recovered);
        // Trajectories thrice (4 of T), segments once; the output's disc, the tints of both planes, the
        // legend, and the labels of the head: recovered and output.
        assert_eq!(count(&svg, recovered), 3 * 4 + 5 + 1 + 2 + 1 + 2);
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts: Vec<_> = document
            .descendants()
            .filter_map(|node| node.text())
            .collect();
        for text in [
            "x.png",
            "adversarial",
            "score 0.930",
            "seed 0",
            "consensus",
            "class 1",
        ] {
            assert!(texts.contains(&text), "{text}: {texts:?}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        png(&svg).unwrap();
    }

    #[test]
    fn the_json_has_every_probe() {
        let mut outcome = outcome(&[("oTAT", "TTAA"), ("ooTT", "TTTA")]);
        let mirrored = Reading::new(&[0.0, 0.0, 0.0, 1.0]);
        outcome.map.segments[1][0].points[0].mirrored = Some(mirrored);
        let (_, json) = traced(&outcome, "x.png");
        assert_eq!(
            (&json["label"], &json["recovered_label"]),
            (&2.into(), &1.into())
        );
        assert_eq!(json["input"]["label"], 0);
        let first = &json["paths"][0];
        assert_eq!(first["path"], "seed 0");
        assert_eq!(first["outcome"]["crossing"], 40);
        let probes = first["trajectory"].as_array().unwrap();
        let labels: Vec<_> = probes.iter().map(|probe| probe["label"].as_u64()).collect();
        assert_eq!(labels, [2, 1, 0, 1].map(Some));
        let lead = probes[1]["margin"].as_f64().unwrap();
        assert!((lead - (0.85f64 / 0.05).ln()).abs() < 1e-5);
        let segment = &first["segments"][0];
        assert_eq!(
            (&segment["iteration"], &segment["points"][0]["position"]),
            (&80.into(), &(-0.25).into())
        );
        let consensus = &json["paths"][1];
        assert_eq!(consensus["path"], "consensus");
        let points = &consensus["segments"][0]["points"];
        assert_eq!(
            (&points[0]["label"], &points[0]["mirrored"]["label"]),
            (&1.into(), &3.into())
        );
        assert!(points[1].get("mirrored").is_none());
    }

    #[test]
    fn odd_outcomes_are_drawn_too() {
        let mut one_class = outcome(&[("A", "A")]);
        one_class.recovered_label = None;
        let mut unbounded = outcome(&[("oT", "TTAA")]);
        unbounded.map.trajectories[0][1].psnr = f64::INFINITY;
        let ruled_out = Reading::new(&[1.0, f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0]);
        unbounded.map.trajectories[0][0].reading = ruled_out.clone();
        unbounded.map.segments[0][0].points[1].reading = ruled_out;
        let mut on_trajectory = outcome(&[("oTAA", "AAAA")]);
        on_trajectory.restarts[0].boundary = None;
        let huge = {
            let mut outcome = outcome(&[("TT", "TA")]);
            outcome.map.trajectories[0][0].reading = Reading::new(&[3e38, -3e38, 0.0, 0.0]);
            outcome
        };
        let long = "oTA".repeat(2000);
        let many: Vec<_> = (0..40).map(|_| (&*long, "TTTA")).collect();
        for outcome in [one_class, unbounded, on_trajectory, huge, outcome(&many)] {
            let (svg, json) = traced(&outcome, "</svg>\u{1}&\"\n");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{json}");
            png(&svg).unwrap();
            assert_eq!(traced(&outcome, "</svg>\u{1}&\"\n").0, svg);
        }
    }
}
