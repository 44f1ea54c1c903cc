//! The whole drawing: a head with the labels, and four panels.

use super::style::{Sign, TracedPath, color, path_name};
use super::subject::Trace;
use super::{decision_map, decision_path, trajectories};
use crate::defense::{PathOutcome, Reading, Verdict};
use crate::plot::{Anchor, INK, LINE, Panel, SOFT, Stroke, Svg};
use crate::run::report::role::Role;
use crate::run::report::trajectories::{kept, paths, shown_segment, thinned};

const WIDTH: f64 = 1240.0;
const HEIGHT: f64 = 900.0;

/// The paths that are shown: the first restarts and the consensus.
fn shown<'a>(trace: &'a Trace<'_>) -> Vec<TracedPath<'a>> {
    let map = &trace.outcome.map;
    let all: Vec<&PathOutcome> = paths(trace.outcome).collect();
    let path = |path: usize| TracedPath {
        name: path_name(all[path]),
        principal: path + 1 == all.len(),
        outcome: all[path],
        trajectory: thinned(map.trajectories[path].iter()),
        segments: &map.segments[path],
        segment: shown_segment(trace.outcome, path, all[path]),
    };
    kept(all.len()).map(path).collect()
}

/// The drawing as an SVG file.
pub(super) fn draw(trace: &Trace<'_>) -> String {
    let mut svg = Svg::default();
    let paths = shown(trace);
    head(&mut svg, trace);
    trajectories::draw(
        &mut svg,
        Panel::new(76.0, 180.0, 560.0, 300.0),
        trace,
        &paths,
    );
    decision_map::draw(
        &mut svg,
        Panel::new(770.0, 180.0, 430.0, 300.0),
        trace,
        &paths,
    );
    decision_path::margins(
        &mut svg,
        Panel::new(76.0, 560.0, 560.0, 250.0),
        trace,
        &paths,
    );
    decision_path::plane(
        &mut svg,
        Panel::new(770.0, 560.0, 430.0, 250.0),
        trace,
        &paths,
    );
    signs(&mut svg);
    svg.finish(WIDTH, HEIGHT, &format!("backstitch trace: {}", trace.image))
}

/// The picture's name, its verdict and its labels.
fn head(svg: &mut Svg, trace: &Trace<'_>) {
    let outcome = trace.outcome;
    svg.text(
        (28.0, 44.0),
        20.0,
        Anchor::Start,
        INK,
        &shortened(trace.image, 70),
    );
    let (verdict, fill) = match outcome.verdict {
        Verdict::Adversarial => ("adversarial", "#b3261e"),
        Verdict::Clean => ("clean", "#18794e"),
        Verdict::Undecided => ("undecided", "#8a6100"),
    };
    svg.rect([WIDTH - 330.0, 24.0, 124.0, 28.0], fill, 1.0);
    svg.text(
        (WIDTH - 268.0, 43.0),
        15.0,
        Anchor::Middle,
        "#ffffff",
        verdict,
    );
    let score = format!("score {:.3}", outcome.score);
    svg.text((WIDTH - 40.0, 43.0), 15.0, Anchor::End, INK, &score);

    let sure = |reading: &Reading| Some(reading.confidence());
    let labels = [
        ("true label", trace.truth, None),
        (
            "input label",
            Some(outcome.input.label()),
            sure(&outcome.input),
        ),
        ("recovered label", outcome.recovered_label, None),
        (
            "output label",
            Some(outcome.output.label()),
            sure(&outcome.output),
        ),
    ];
    let step = (WIDTH - 56.0) / labels.len() as f64;
    for (i, (title, label, sure)) in labels.into_iter().enumerate() {
        let x = 28.0 + i as f64 * step;
        let fill = label.map_or(LINE, |label| color(trace.labels().role(label)));
        svg.rect([x, 70.0, 6.0, 42.0], fill, 1.0);
        let sure = sure.map_or(String::new(), |sure| format!(", {:.1}%", 100.0 * sure));
        svg.text(
            (x + 14.0, 84.0),
            12.0,
            Anchor::Start,
            SOFT,
            &format!("{title}{sure}"),
        );
        let name = label.map_or("unknown".to_owned(), |label| trace.class_name(label));
        svg.text(
            (x + 14.0, 106.0),
            15.0,
            Anchor::Start,
            INK,
            &shortened(&name, 28),
        );
    }
    svg.line(
        &[(28.0, 128.0), (WIDTH - 28.0, 128.0)],
        Stroke::solid(LINE, 1.0),
    );
}

/// Draws the legend of the colors and the signs.
fn signs(svg: &mut Svg) {
    let y = HEIGHT - 24.0;
    let mut x = 28.0;
    for role in Role::ALL {
        svg.rect([x, y - 10.0, 11.0, 11.0], color(role), 1.0);
        let name = match role {
            Role::True => "true label",
            Role::Input => "input label",
            Role::Recovered => "recovered label",
            Role::Other => "other label",
        };
        svg.text((x + 17.0, y), 12.0, Anchor::Start, SOFT, name);
        x += 40.0 + 7.2 * name.len() as f64;
    }
    for (sign, name) in [
        (Sign::Crossing, "crossing"),
        (Sign::Boundary, "on-boundary image (α)"),
        (Sign::Pushed, "on-manifold image (β)"),
    ] {
        sign.draw(svg, (x + 6.0, y - 4.5));
        svg.text((x + 17.0, y), 12.0, Anchor::Start, SOFT, name);
        x += 44.0 + 6.8 * name.chars().count() as f64;
    }
}

/// The text, shortened at its start to at most `most` characters.
fn shortened(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let end: String = text.chars().skip(count + 1 - most).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("folder/näme.png", 9), "…näme.png");
    }
}
