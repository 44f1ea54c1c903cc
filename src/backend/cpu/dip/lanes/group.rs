//! Sixteen instances that run together, one in each lane.

use super::adam::{Rates, Trained};
use super::loss::Picture;
use super::plan::LanePlan;
use super::step::{Iteration, Workspace};
use crate::backend::cpu::simd::{Isa, LANES, Lanes};
use crate::dip::{NetSpec, initial_input, initial_parameters};
use crate::random::{Purpose, RandomKey};

/// The instance in a lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Occupant {
    pub key: RandomKey,
    /// Iterations behind it.
    pub iteration: u32,
}

/// Sixteen instances' state: vectors of one number for each lane.
pub(super) struct Group {
    pub occupants: [Option<Occupant>; LANES],
    pub parameters: Trained,
    pub gradients: Vec<Lanes>,
    /// `z`, `[channel][y][x]`; its moments are empty unless the input is optimized.
    pub input: Trained,
    /// Empty unless the input is optimized.
    pub input_gradient: Vec<Lanes>,
    /// `[channel][y][x]`, like the picture.
    pub target: Vec<Lanes>,
    pub picture: Vec<Lanes>,
    pub loss: Lanes,
}

/// Writes one lane.
pub(super) fn put<T: Copy>(to: &mut [Lanes], lane: usize, from: &[T], convert: impl Fn(T) -> f32) {
    assert_eq!(to.len(), from.len());
    for (to, &from) in to.iter_mut().zip(from) {
        to.0[lane] = convert(from);
    }
}

/// Reads one lane.
pub(super) fn get(from: &[Lanes], lane: usize) -> impl Iterator<Item = f32> {
    from.iter().map(move |lanes| lanes.0[lane])
}

impl Group {
    /// # Errors
    /// Gives `None` where there is too little memory.
    pub(super) fn new(spec: &NetSpec, plan: &LanePlan) -> Option<Group> {
        let zeroed = |n| bytemuck::allocation::try_zeroed_vec(n).ok();
        let trained = |n, moments| {
            Some(Trained {
                values: zeroed(n)?,
                first: zeroed(moments)?,
                second: zeroed(moments)?,
            })
        };
        let input = spec.input_depth * plan.input.pixels();
        let moved = if spec.optimize_input { input } else { 0 };
        let picture = spec.output_channels * plan.output.pixels();
        Some(Group {
            occupants: [None; LANES],
            parameters: trained(plan.parameters, plan.parameters)?,
            gradients: zeroed(plan.parameters)?,
            input: trained(input, moved)?,
            input_gradient: zeroed(moved)?,
            target: zeroed(picture)?,
            picture: zeroed(picture)?,
            loss: Lanes::ZERO,
        })
    }

    /// Starts an instance in a lane.
    pub(super) fn load(
        &mut self,
        lane: usize,
        spec: &NetSpec,
        plan: &LanePlan,
        target: &[f32],
        key: RandomKey,
    ) {
        let (height, width) = (plan.input.height, plan.input.width);
        let clear = |values: &mut [Lanes]| values.iter_mut().for_each(|v| v.0[lane] = 0.0);
        for trained in [&mut self.parameters, &mut self.input] {
            clear(&mut trained.first);
            clear(&mut trained.second);
        }
        clear(&mut self.picture);
        let keep = |v: f32| v;
        put(
            &mut self.parameters.values,
            lane,
            &initial_parameters(spec, &key),
            keep,
        );
        put(
            &mut self.input.values,
            lane,
            &initial_input(spec, height, width, &key),
            keep,
        );
        put(&mut self.target, lane, target, keep);
        self.occupants[lane] = Some(Occupant { key, iteration: 0 });
    }

    /// Whether any lane holds an instance.
    pub(super) fn in_use(&self) -> bool {
        self.occupants.iter().any(Option::is_some)
    }

    /// Runs all lanes, those without an instance too: what these hold concerns nobody.
    pub(super) fn run(
        &mut self,
        isa: Isa,
        spec: &NetSpec,
        plan: &LanePlan,
        workspace: &mut Workspace,
        iterations: u32,
    ) {
        for iteration in 1..=iterations {
            self.place_input(spec, plan, workspace);
            // Nobody sees a picture between calls, but the average needs them all.
            let seen = spec.averaging > 0.0 || iteration == iterations;
            let keep = Lanes(self.occupants.map(|occupant| match occupant {
                Some(Occupant { iteration: 1.., .. }) => spec.averaging,
                _ => 0.0,
            }));
            let picture = seen.then_some(Picture {
                pixels: &mut self.picture,
                keep,
            });
            let mut pass = Iteration {
                isa,
                plan,
                workspace,
                parameters: &self.parameters.values,
                gradients: &mut self.gradients,
            };
            self.loss = pass.run(&self.target, picture);
            let steps = self
                .occupants
                .map(|o| o.map_or(1, |o| o.iteration.saturating_add(1)));
            let rates = Rates::new(spec.learning_rate, steps);
            self.parameters.step(isa, &rates, 0, &self.gradients);
            if let Some(gradient) = &plan.input_gradient {
                let width = gradient.width;
                for channel in 0..gradient.channels {
                    for y in 0..gradient.height {
                        let place = (channel * gradient.height + y) * width;
                        let row = &workspace.memory[gradient.index(channel, y, 0)..][..width];
                        self.input.step(isa, &rates, place, row);
                        self.input_gradient[place..][..width].copy_from_slice(row);
                    }
                }
            }
            for occupant in self.occupants.iter_mut().flatten() {
                occupant.iteration = occupant.iteration.saturating_add(1);
            }
        }
    }

    /// Copies the input to the workspace, with this iteration's jitter.
    fn place_input(&self, spec: &NetSpec, plan: &LanePlan, workspace: &mut Workspace) {
        let view = &plan.input;
        for (row, values) in self.input.values.chunks_exact(view.width).enumerate() {
            let at = view.index(row / view.height, row % view.height, 0);
            workspace.memory[at..][..view.width].copy_from_slice(values);
        }
        if spec.jitter == 0.0 {
            return;
        }
        let pixels = view.pixels();
        for (lane, occupant) in self.occupants.iter().enumerate() {
            let Some(Occupant { key, iteration }) = occupant else {
                continue;
            };
            key.normal(
                Purpose::Jitter,
                *iteration,
                view.channels * pixels,
                |i, g| {
                    let (channel, pixel) = (i / pixels, i % pixels);
                    let at = view.index(channel, pixel / view.width, pixel % view.width);
                    workspace.memory[at].0[lane] += spec.jitter * g;
                },
            );
        }
    }
}
