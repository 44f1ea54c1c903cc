//! The panel of trajectories: PSNR curves above a strip of probes for each path.

use super::style::{Sign, TracedPath, color, strength};
use super::subject::Trace;
use crate::plot::{Anchor, Panel, SMALL, SOFT, Scale, Stroke, Svg, extent};

/// Distance between curves and strips, in pixels.
const GAP: f64 = 14.0;

pub(super) fn draw(svg: &mut Svg, panel: Panel, trace: &Trace<'_>, paths: &[TracedPath<'_>]) {
    panel.title(svg, "Trajectories: the reconstructions over the iterations");
    let rows = paths.len() as f64;
    let pitch = (140.0 / rows).min(20.0);
    let strips = panel.bottom - pitch * rows;
    let probes = paths.iter().map(|path| path.trajectory.len()).max();
    let interval = f64::from(trace.interval());
    let every = paths
        .iter()
        .find_map(|path| path.trajectory.first())
        .map_or(interval, |first| f64::from(first.iteration));
    // A cell around each probe.
    let last = every * probes.unwrap_or(1) as f64;
    let x = Scale {
        domain: (every / 2.0, last + every / 2.0),
        range: (panel.left, panel.right),
    };
    let curves = Panel {
        bottom: strips - GAP,
        ..panel
    };
    let all = paths.iter().flat_map(|path| &path.trajectory);
    let y = Scale {
        domain: extent(all.map(|point| point.psnr)),
        range: (curves.bottom, curves.top),
    };
    curves.y_axis(svg, &y, panel.right, "PSNR to the input (dB)");
    for path in paths {
        let points = path
            .trajectory
            .iter()
            .filter(|point| point.psnr.is_finite());
        let points: Vec<_> = points
            .map(|point| (x.at(f64::from(point.iteration)), y.at(point.psnr)))
            .collect();
        svg.line(&points, path.stroke());
        if let Some(crossing) = path.outcome.crossing {
            let at = path
                .trajectory
                .iter()
                .find(|point| point.iteration >= crossing);
            if let Some(point) = at.filter(|point| point.psnr.is_finite()) {
                let at = (x.at(f64::from(crossing)), y.at(point.psnr));
                svg.disc(at, 2.5, "#ffffff", Stroke::solid(SOFT, 1.2));
            }
        }
    }
    for (row, path) in paths.iter().enumerate() {
        let top = strips + row as f64 * pitch;
        let tall = (pitch - 3.0).max(0.8 * pitch);
        if pitch >= 9.0 {
            let at = (panel.left - 7.0, top + tall / 2.0 + 4.0);
            svg.text(at, SMALL.min(pitch), Anchor::End, SOFT, &path.name);
        }
        for point in &path.trajectory {
            let middle = f64::from(point.iteration);
            let (from, to) = (x.at(middle - every / 2.0), x.at(middle + every / 2.0));
            let fill = color(trace.labels().role(point.reading.label()));
            let cell = [from, top, to - from - 0.5, tall];
            svg.rect(cell, fill, strength(&point.reading));
        }
        let middle = top + tall / 2.0;
        if let Some(crossing) = path.outcome.crossing {
            let crossing = f64::from(crossing);
            Sign::Crossing.draw(svg, (x.at(crossing), middle));
            // An on-boundary image that is not on a segment lies between two reconstructions of the trajectory.
            if let (Some(alpha), None) = (path.outcome.alpha, path.outcome.boundary) {
                let at = crossing + f64::from(alpha) * interval;
                Sign::Boundary.draw(svg, (x.at(at), middle));
            }
        }
    }
    panel.x_axis(svg, &x, "iteration");
}
