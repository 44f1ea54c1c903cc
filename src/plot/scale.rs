//! Axes: the mapping from values to pixels.

/// A linear axis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Values at the ends.
    pub domain: (f64, f64),
    /// Pixels at the ends.
    pub range: (f64, f64),
}

impl Scale {
    /// The pixel of a value.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let part = (value - self.domain.0) / (self.domain.1 - self.domain.0);
        self.range.0 + part * (self.range.1 - self.range.0)
    }

    /// About `count` round values within the domain, rising.
    pub(crate) fn ticks(&self, count: usize) -> Vec<f64> {
        let (low, high) = self.domain;
        let rough = (high - low) / count as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|step| *step >= rough * (1.0 - 1e-9))
            .unwrap_or(10.0 * power);
        let first = (low / step - 1e-9).ceil();
        let steps = (high / step + 1e-9).floor() - first;
        // A domain beyond the precision of numbers has no ticks.
        let count = if (0.0..=4.0 * count as f64).contains(&steps) {
            steps as usize + 1
        } else {
            0
        };
        (0..count).map(|i| (first + i as f64) * step).collect()
    }
}

/// An interval a little wider than the range of the finite `values`; one around 0 if there are none.
pub(crate) fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if low > high {
        return (-1.0, 1.0);
    }
    let margin = (0.06 * (high - low))
        .max(1e-3 * low.abs().max(high.abs()))
        .max(1e-3);
    (low - margin, high + margin)
}

/// A tick's number.
pub(crate) fn label(tick: f64) -> String {
    if tick != 0.0 && !(1e-3..1e6).contains(&tick.abs()) {
        return format!("{tick:.0e}");
    }
    let text = format!("{tick:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let ticks = |low, high| {
            let scale = Scale {
                domain: (low, high),
                range: (0.0, 100.0),
            };
            scale.ticks(5).into_iter().map(label).collect::<Vec<_>>()
        };
        assert_eq!(ticks(0.0, 600.0), ["0", "200", "400", "600"]);
        assert_eq!(ticks(17.2, 23.9), ["18", "20", "22"]);
        assert_eq!(ticks(-0.375, 1.0), ["0", "0.5", "1"]);
        assert_eq!(ticks(-12.0, 3.0), ["−10", "−5", "0"]);
        assert_eq!(ticks(1e30, 1e30 + 1e13).len(), 0);
    }

    #[test]
    fn values_fall_on_pixels() {
        let scale = Scale {
            domain: (10.0, 20.0),
            range: (200.0, 100.0),
        };
        assert_eq!(
            [10.0, 15.0, 20.0].map(|x| scale.at(x)),
            [200.0, 150.0, 100.0]
        );
    }

    #[test]
    fn an_extent_has_a_width_whatever_is_in_it() {
        let none: [f64; 0] = [];
        for values in [&none[..], &[f64::NAN, f64::INFINITY], &[3.0], &[1e30, 1e30]] {
            let (low, high) = extent(values.iter().copied());
            assert!(
                low < high && low.is_finite() && high.is_finite(),
                "{values:?}"
            );
        }
        let (low, high) = extent([0.0, 10.0].into_iter());
        assert!(low < 0.0 && high > 10.0 && high < 11.0);
    }
}
