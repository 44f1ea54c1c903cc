//! DIP networks in float64.

use std::collections::HashMap;
use std::ops::Range;

pub(crate) mod ops;

use crate::backend::checks::{
    check_images, check_instances, check_len, check_slot, free_slot, input_not_optimized, not_run,
};
use crate::backend::host::HostImages;
use crate::backend::{DipEngine, ImageShape, Instance};
use crate::dip::{NetSpec, Padding, initial_input, initial_parameters};
use crate::error::Result;
use crate::random::{Purpose, RandomKey};
use ops::{
    Adam, Conv, Statistics, Tensor, concat, leaky_backward, leaky_forward, norm_backward,
    norm_forward, sigmoid_loss, split, statistics, upsample_backward, upsample_forward,
};

/// The engine whose numbers the others must match.
pub struct ReferenceDip {
    network: Network,
    shape: ImageShape,
    slots: Vec<Option<Slot>>,
}

/// One instance.
struct Slot {
    key: RandomKey,
    target: Vec<f64>,
    parameters: Vec<f64>,
    input: Tensor,
    adam: Adam,
    input_adam: Adam,
    iteration: u32,
    /// Of the last iteration; `None` before the first.
    result: Option<Outcome>,
}

/// What an iteration leaves.
struct Outcome {
    loss: f64,
    /// The output, or the outputs' average.
    picture: Vec<f64>,
    gradients: Vec<f64>,
    input_gradient: Tensor,
}

impl ReferenceDip {
    /// An engine of `capacity` instances that fit pictures of `height × width`.
    ///
    /// # Errors
    /// The network is impossible or cannot fit that size.
    pub fn new(spec: &NetSpec, height: usize, width: usize, capacity: usize) -> Result<Self> {
        spec.check_size(height, width)?;
        Ok(ReferenceDip {
            network: Network::new(spec),
            shape: ImageShape {
                channels: spec.output_channels,
                height,
                width,
            },
            slots: (0..capacity).map(|_| None).collect(),
        })
    }

    fn slot(&mut self, slot: usize) -> Result<&mut Slot> {
        check_slot(slot, self.slots.len())?;
        self.slots[slot].as_mut().ok_or_else(|| free_slot(slot))
    }

    fn result(&mut self, slot: usize) -> Result<&Outcome> {
        self.slot(slot)?
            .result
            .as_ref()
            .ok_or_else(|| not_run(slot))
    }
}

impl DipEngine for ReferenceDip {
    type Images = HostImages<f64>;

    fn capacity(&self) -> usize {
        self.slots.len()
    }

    fn load(&mut self, instances: &[Instance<'_, Self::Images>]) -> Result<()> {
        check_instances(instances, self.slots.len(), self.shape)?;
        let spec = &self.network.spec;
        let (height, width) = (self.shape.height, self.shape.width);
        for instance in instances {
            let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
            let parameters = wide(initial_parameters(spec, &instance.key));
            let input = Tensor {
                channels: spec.input_depth,
                height,
                width,
                data: wide(initial_input(spec, height, width, &instance.key)),
            };
            self.slots[instance.slot] = Some(Slot {
                key: instance.key,
                target: instance.target.pixels().to_vec(),
                adam: Adam::new(parameters.len()),
                input_adam: Adam::new(input.data.len()),
                parameters,
                input,
                iteration: 0,
                result: None,
            });
        }
        Ok(())
    }

    fn release(&mut self, slots: &[usize]) -> Result<()> {
        for &slot in slots {
            check_slot(slot, self.slots.len())?;
            self.slots[slot] = None;
        }
        Ok(())
    }

    fn run(&mut self, iterations: u32) -> Result<()> {
        for slot in self.slots.iter_mut().flatten() {
            for _ in 0..iterations {
                slot.iterate(&self.network);
            }
        }
        Ok(())
    }

    fn reconstructions(
        &mut self,
        slots: &[usize],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()> {
        check_images(out, self.shape, first, slots.len(), "reconstruction")?;
        for (i, &slot) in slots.iter().enumerate() {
            out.image_mut(first + i)
                .copy_from_slice(&self.result(slot)?.picture);
        }
        Ok(())
    }

    fn losses(&mut self, slots: &[usize]) -> Result<Vec<f64>> {
        slots
            .iter()
            .map(|&slot| Ok(self.result(slot)?.loss))
            .collect()
    }

    fn parameters(&mut self, slot: usize) -> Result<Vec<f64>> {
        Ok(self.slot(slot)?.parameters.clone())
    }

    fn set_parameters(&mut self, slot: usize, parameters: &[f64]) -> Result<()> {
        let slot = self.slot(slot)?;
        check_len("parameters", parameters.len(), slot.parameters.len())?;
        slot.parameters.copy_from_slice(parameters);
        Ok(())
    }

    fn gradients(&mut self, slot: usize) -> Result<Vec<f64>> {
        Ok(self.result(slot)?.gradients.clone())
    }

    fn input(&mut self, slot: usize) -> Result<Vec<f64>> {
        Ok(self.slot(slot)?.input.data.clone())
    }

    fn set_input(&mut self, slot: usize, input: &[f64]) -> Result<()> {
        let slot = self.slot(slot)?;
        check_len("input elements", input.len(), slot.input.data.len())?;
        slot.input.data.copy_from_slice(input);
        Ok(())
    }

    fn input_gradient(&mut self, slot: usize) -> Result<Vec<f64>> {
        if !self.network.spec.optimize_input {
            return Err(input_not_optimized());
        }
        Ok(self.result(slot)?.input_gradient.data.clone())
    }
}

impl Slot {
    /// One forward pass, backward pass and Adam step.
    fn iterate(&mut self, network: &Network) {
        let spec = &network.spec;
        let input = self.jittered(f64::from(spec.jitter));
        let (output, tape) = network.forward(&self.parameters, input);
        let (picture, loss, dx) = sigmoid_loss(&output, &self.target);
        let mut gradients = vec![0.0; self.parameters.len()];
        let input_gradient = network.backward(&self.parameters, &tape, &dx, &mut gradients);

        let rate = spec.learning_rate;
        self.adam.step(rate, &mut self.parameters, &gradients);
        if spec.optimize_input {
            self.input_adam
                .step(rate, &mut self.input.data, &input_gradient.data);
        }
        let mut picture = picture.data;
        if let (Some(last), true) = (&self.result, spec.averaging > 0.0) {
            let keep = f64::from(spec.averaging);
            for (new, old) in picture.iter_mut().zip(&last.picture) {
                *new = keep * old + (1.0 - keep) * *new;
            }
        }
        self.result = Some(Outcome {
            loss,
            picture,
            gradients,
            input_gradient,
        });
        self.iteration += 1;
    }

    /// The input with this iteration's noise.
    fn jittered(&self, sigma: f64) -> Tensor {
        let mut input = self.input.clone();
        if sigma > 0.0 {
            let n = input.data.len();
            self.key.normal(Purpose::Jitter, self.iteration, n, |i, g| {
                input.data[i] += sigma * f64::from(g);
            });
        }
        input
    }
}

/// A network's structure: the specification, and where each tensor lies in the parameter vector.
struct Network {
    spec: NetSpec,
    places: HashMap<String, Range<usize>>,
}

/// What `convolution, BN, LeakyReLU` keeps for its derivative.
struct Block {
    input: Tensor,
    convolved: Tensor,
    statistics: Vec<Statistics>,
    normalized: Tensor,
}

/// What a level keeps for its derivative.
struct Level {
    skip: Option<Block>,
    down: Block,
    mid: Block,
    deeper: Option<Box<Level>>,
    merged: Tensor,
    statistics: Vec<Statistics>,
    up: Block,
    fuse: Block,
}

/// What a forward pass keeps.
struct Tape {
    level: Level,
    features: Tensor,
}

impl Network {
    fn new(spec: &NetSpec) -> Self {
        Network {
            places: spec
                .parameters()
                .into_iter()
                .map(|p| (p.name.clone(), p.offset..p.offset + p.len()))
                .collect(),
            spec: spec.clone(),
        }
    }

    /// A tensor of the parameter vector.
    fn get<'a>(&self, values: &'a [f64], name: &str) -> &'a [f64] {
        &values[self.places[name].clone()]
    }

    /// Writes a tensor of the gradient vector.
    fn put(&self, values: &mut [f64], name: &str, gradient: &[f64]) {
        values[self.places[name].clone()].copy_from_slice(gradient);
    }

    /// The convolution of a layer, by its name's last part.
    fn conv(&self, k: usize, layer: &str) -> Conv {
        let (outputs, kernel, stride) = match layer {
            "skip" => (self.spec.skip[k], 1, 1),
            "down" => (self.spec.down[k], 3, 2),
            "mid" => (self.spec.down[k], 3, 1),
            "up" => (self.spec.up[k], 3, 1),
            _ => (self.spec.up[k], 1, 1),
        };
        Conv {
            outputs,
            kernel,
            stride,
            padding: self.spec.padding,
        }
    }

    /// The last convolution, to the picture's channels.
    fn out_conv(&self) -> Conv {
        Conv {
            outputs: self.spec.output_channels,
            kernel: 1,
            stride: 1,
            padding: Padding::Zero,
        }
    }

    /// The picture before the sigmoid.
    fn forward(&self, parameters: &[f64], input: Tensor) -> (Tensor, Tape) {
        let (features, level) = self.forward_level(parameters, 0, input);
        let output = self.out_conv().forward(
            &features,
            self.get(parameters, "out_conv.weight"),
            self.get(parameters, "out_conv.bias"),
        );
        (output, Tape { level, features })
    }

    /// Fills `gradients`; gives the derivative by the input.
    fn backward(
        &self,
        parameters: &[f64],
        tape: &Tape,
        dy: &Tensor,
        gradients: &mut [f64],
    ) -> Tensor {
        let weight = self.get(parameters, "out_conv.weight");
        let (dx, dweight, dbias) = self.out_conv().backward(&tape.features, weight, dy);
        self.put(gradients, "out_conv.weight", &dweight);
        self.put(gradients, "out_conv.bias", &dbias);
        self.backward_level(parameters, 0, &tape.level, &dx, gradients)
    }

    fn forward_level(&self, parameters: &[f64], k: usize, x: Tensor) -> (Tensor, Level) {
        let skip =
            (self.spec.skip[k] > 0).then(|| self.forward_block(parameters, k, "skip", x.clone()));
        let (y, down) = self.forward_block(parameters, k, "down", x);
        let (mut y, mid) = self.forward_block(parameters, k, "mid", y);
        let mut deeper = None;
        if k + 1 < self.spec.levels() {
            let (inner, level) = self.forward_level(parameters, k + 1, y);
            y = inner;
            deeper = Some(Box::new(level));
        }
        let mut merged = upsample_forward(&y, self.spec.upsample);
        let skip = skip.map(|(beside, block)| {
            merged = concat(&beside, &merged);
            block
        });
        let statistics = statistics(&merged);
        let (weight, bias) = self.norm_parameters(parameters, k, "merge");
        let y = norm_forward(&merged, &statistics, weight, bias);
        let (y, up) = self.forward_block(parameters, k, "up", y);
        let (y, fuse) = self.forward_block(parameters, k, "fuse", y);
        let level = Level {
            skip,
            down,
            mid,
            deeper,
            merged,
            statistics,
            up,
            fuse,
        };
        (y, level)
    }

    fn backward_level(
        &self,
        parameters: &[f64],
        k: usize,
        level: &Level,
        dy: &Tensor,
        gradients: &mut [f64],
    ) -> Tensor {
        let d = self.backward_block(parameters, k, "fuse", &level.fuse, dy, gradients);
        let d = self.backward_block(parameters, k, "up", &level.up, &d, gradients);
        let (weight, _) = self.norm_parameters(parameters, k, "merge");
        let (d, dweight, dbias) = norm_backward(&level.merged, &level.statistics, weight, &d);
        self.put_norm(gradients, k, "merge", &dweight, &dbias);
        let (beside, d) = split(&d, self.spec.skip[k]);
        let mut d = upsample_backward(&d, self.spec.upsample);
        if let Some(deeper) = &level.deeper {
            d = self.backward_level(parameters, k + 1, deeper, &d, gradients);
        }
        let d = self.backward_block(parameters, k, "mid", &level.mid, &d, gradients);
        let mut d = self.backward_block(parameters, k, "down", &level.down, &d, gradients);
        if let Some(skip) = &level.skip {
            let beside = self.backward_block(parameters, k, "skip", skip, &beside, gradients);
            for (d, beside) in d.data.iter_mut().zip(&beside.data) {
                *d += beside;
            }
        }
        d
    }

    fn norm_parameters<'a>(
        &self,
        parameters: &'a [f64],
        k: usize,
        layer: &str,
    ) -> (&'a [f64], &'a [f64]) {
        (
            self.get(parameters, &format!("level{k}.{layer}_bn.weight")),
            self.get(parameters, &format!("level{k}.{layer}_bn.bias")),
        )
    }

    fn put_norm(&self, gradients: &mut [f64], k: usize, layer: &str, weight: &[f64], bias: &[f64]) {
        self.put(gradients, &format!("level{k}.{layer}_bn.weight"), weight);
        self.put(gradients, &format!("level{k}.{layer}_bn.bias"), bias);
    }

    /// Convolution, BN, LeakyReLU.
    fn forward_block(
        &self,
        parameters: &[f64],
        k: usize,
        layer: &str,
        input: Tensor,
    ) -> (Tensor, Block) {
        let convolved = self.conv(k, layer).forward(
            &input,
            self.get(parameters, &format!("level{k}.{layer}_conv.weight")),
            self.get(parameters, &format!("level{k}.{layer}_conv.bias")),
        );
        let statistics = statistics(&convolved);
        let (weight, bias) = self.norm_parameters(parameters, k, layer);
        let normalized = norm_forward(&convolved, &statistics, weight, bias);
        let output = leaky_forward(&normalized);
        let block = Block {
            input,
            convolved,
            statistics,
            normalized,
        };
        (output, block)
    }

    fn backward_block(
        &self,
        parameters: &[f64],
        k: usize,
        layer: &str,
        block: &Block,
        dy: &Tensor,
        gradients: &mut [f64],
    ) -> Tensor {
        let d = leaky_backward(&block.normalized, dy);
        let (weight, _) = self.norm_parameters(parameters, k, layer);
        let (d, dweight, dbias) = norm_backward(&block.convolved, &block.statistics, weight, &d);
        self.put_norm(gradients, k, layer, &dweight, &dbias);
        let name = format!("level{k}.{layer}_conv");
        let weight = self.get(parameters, &format!("{name}.weight"));
        let (dx, dweight, dbias) = self.conv(k, layer).backward(&block.input, weight, &d);
        self.put(gradients, &format!("{name}.weight"), &dweight);
        self.put(gradients, &format!("{name}.bias"), &dbias);
        dx
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{At, ImageBuffer};
    use crate::dip::Preset;

    const KEY: RandomKey = RandomKey {
        seed: 1,
        image: 2,
        tile: 4,
    };

    fn engine(spec: &NetSpec, capacity: usize) -> ReferenceDip {
        let mut engine = ReferenceDip::new(spec, 16, 16, capacity).unwrap();
        let mut target = HostImages::zeroed(engine.shape, 1).unwrap();
        for (i, v) in target.image_mut(0).iter_mut().enumerate() {
            *v = (i % 17) as f64 / 16.0;
        }
        let instance = Instance {
            slot: 0,
            target: At::new(&target, 0),
            key: KEY,
        };
        engine.load(&[instance]).unwrap();
        engine
    }

    fn picture(engine: &mut ReferenceDip) -> Vec<f64> {
        let mut out = HostImages::zeroed(engine.shape, 1).unwrap();
        engine.reconstructions(&[0], &mut out, 0).unwrap();
        out.image(0).to_vec()
    }

    #[test]
    fn the_average_starts_at_the_first_output() {
        let plain = Preset::Tiles.spec(3);
        let averaged = NetSpec {
            averaging: 0.75,
            ..plain.clone()
        };
        let (mut plain, mut averaged) = (engine(&plain, 1), engine(&averaged, 1));
        let mut want: Option<Vec<f64>> = None;
        for _ in 0..4 {
            plain.run(1).unwrap();
            averaged.run(1).unwrap();
            let output = picture(&mut plain);
            want = Some(match want {
                None => output,
                Some(old) => std::iter::zip(old, output)
                    .map(|(old, new)| 0.75 * old + 0.25 * new)
                    .collect(),
            });
            assert_eq!(Some(picture(&mut averaged)), want);
        }
    }

    #[test]
    fn jitter_is_fresh_each_iteration_and_never_kept() {
        let spec = NetSpec {
            jitter: 0.03,
            optimize_input: false,
            ..Preset::Tiles.spec(3)
        };
        let mut engine = engine(&spec, 1);
        let z = engine.input(0).unwrap();
        for iteration in 0..2 {
            let jittered = engine.slots[0].as_ref().unwrap().jittered(0.03);
            let mut want = z.clone();
            KEY.normal(Purpose::Jitter, iteration, z.len(), |i, g| {
                want[i] += 0.03 * f64::from(g)
            });
            assert_eq!(jittered.data, want);
            engine.run(1).unwrap();
            assert_eq!(engine.input(0).unwrap(), z);
        }
    }

    #[test]
    fn misuse_is_an_error() {
        let spec = Preset::Skip.spec(3);
        assert!(ReferenceDip::new(&spec, 16, 16, 1).is_err());
        let spec = NetSpec {
            optimize_input: false,
            ..Preset::Tiles.spec(3)
        };
        let mut engine = engine(&spec, 2);
        assert!(engine.losses(&[0]).is_err(), "no iteration yet");
        engine.run(1).unwrap();
        assert!(engine.losses(&[0]).is_ok());
        assert!(engine.losses(&[1]).is_err(), "free");
        assert!(engine.losses(&[2]).is_err(), "beyond the capacity");
        assert!(engine.input_gradient(0).is_err(), "not optimized");
        assert!(engine.set_parameters(0, &[0.0]).is_err());
        let mut small = HostImages::zeroed(engine.shape, 1).unwrap();
        assert_eq!(small.len(), 1);
        assert!(engine.reconstructions(&[0], &mut small, 1).is_err());
        engine.release(&[0]).unwrap();
        assert!(engine.parameters(0).is_err());
    }
}
