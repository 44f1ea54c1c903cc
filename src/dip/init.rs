//! The state an instance starts in, drawn from its key: the same numbers on every backend.

use super::NetSpec;
use crate::random::{Purpose, RandomKey};

/// Scale of the input: `z ~ 0.1·U(0,1)` (Ulyanov et al. 2018).
const INPUT_SCALE: f32 = 0.1;

/// An instance's initial parameters in layout order, as PyTorch's modules start: weights and biases
/// of convolutions uniform in `±1/sqrt(fan_in)`, batch normalization with weight 1 and bias 0.
///
/// Parameter `i` of the vector uses draw `i` of [`Purpose::Parameters`]; the draws that fall on batch
/// normalization are not used.
pub fn initial_parameters(spec: &NetSpec, key: &RandomKey) -> Vec<f32> {
    let mut values = vec![0.0; spec.parameter_count()];
    key.uniform(Purpose::Parameters, 0, values.len(), |i, u| values[i] = u);
    for parameter in spec.parameters() {
        let range = &mut values[parameter.offset..][..parameter.len()];
        match parameter.fan_in {
            Some(fan_in) => {
                let bound = 1.0 / (fan_in as f32).sqrt();
                for value in range {
                    *value = (2.0 * *value - 1.0) * bound;
                }
            }
            None => range.fill(if parameter.name.ends_with("weight") {
                1.0
            } else {
                0.0
            }),
        }
    }
    values
}

/// An instance's initial input `z`, `input_depth × height × width`, CHW.
pub fn initial_input(spec: &NetSpec, height: usize, width: usize, key: &RandomKey) -> Vec<f32> {
    let mut z = vec![0.0; spec.input_depth * height * width];
    key.uniform(Purpose::Input, 0, z.len(), |i, u| z[i] = INPUT_SCALE * u);
    z
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dip::Preset;

    const KEY: RandomKey = RandomKey {
        seed: 3,
        image: 5,
        tile: 1,
    };

    #[test]
    fn convolutions_fill_their_range_and_normalization_starts_neutral() {
        let spec = Preset::Cifar.spec(3);
        let values = initial_parameters(&spec, &KEY);
        for parameter in spec.parameters() {
            let values = &values[parameter.offset..][..parameter.len()];
            let Some(fan_in) = parameter.fan_in else {
                let want = f32::from(u8::from(parameter.name.ends_with("weight")));
                assert!(values.iter().all(|&v| v == want), "{}", parameter.name);
                continue;
            };
            let bound = 1.0 / (fan_in as f32).sqrt();
            assert!(values.iter().all(|v| v.abs() <= bound));
            if values.len() >= 64 {
                let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let mean = values.iter().sum::<f32>() / values.len() as f32;
                assert!(largest > 0.9 * bound && mean.abs() < 0.25 * bound);
            }
        }
    }

    #[test]
    fn a_parameter_takes_the_draw_of_its_place() {
        let spec = Preset::Tiles.spec(3);
        let values = initial_parameters(&spec, &KEY);
        let last = spec.parameters().pop().unwrap();
        let mut draws = vec![];
        KEY.uniform(Purpose::Parameters, 0, spec.parameter_count(), |_, u| {
            draws.push(u)
        });
        let bound = 1.0 / (last.fan_in.unwrap() as f32).sqrt();
        let want = (2.0 * draws[last.offset] - 1.0) * bound;
        assert_eq!(values[last.offset], want);
    }

    #[test]
    fn the_input_is_small_and_positive() {
        let z = initial_input(&Preset::Skip.spec(3), 64, 32, &KEY);
        assert_eq!(z.len(), 32 * 64 * 32);
        assert!(z.iter().all(|v| (0.0..0.1).contains(v)));
        let mean = z.iter().map(|&v| f64::from(v)).sum::<f64>() / z.len() as f64;
        assert!((mean - 0.05).abs() < 0.001);
    }
}
