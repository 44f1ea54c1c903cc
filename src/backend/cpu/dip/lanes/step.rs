//! One iteration of sixteen instances: forward pass, loss and backward pass.

use super::conv::Start;
use super::loss::{Picture, sigmoid_loss};
use super::norm::{self, Channel};
use super::plan::{Block, LanePlan, LaneStep, Merge, NormSpan};
use super::resample::{fold_border, reflect_border, upsample, upsample_gradient};
use super::view::View;
use crate::backend::cpu::simd::{Isa, Lanes};
use crate::dip::Padding;

/// What a thread computes a group's iteration in; holds nothing between iterations but zero borders.
pub(super) struct Workspace {
    pub memory: Vec<Lanes>,
    /// Of every normalized channel.
    channels: Vec<Channel>,
}

impl Workspace {
    /// # Errors
    /// Gives `None` where there is too little memory.
    pub(super) fn new(plan: &LanePlan) -> Option<Self> {
        Some(Workspace {
            memory: bytemuck::allocation::try_zeroed_vec(plan.memory).ok()?,
            channels: bytemuck::allocation::try_zeroed_vec(plan.normalized).ok()?,
        })
    }
}

/// One iteration's operands.
pub(super) struct Iteration<'a> {
    pub isa: Isa,
    pub plan: &'a LanePlan,
    pub workspace: &'a mut Workspace,
    pub parameters: &'a [Lanes],
    pub gradients: &'a mut [Lanes],
}

impl Iteration<'_> {
    /// Runs the network on the input that the workspace holds, and back from the loss against
    /// `target`; leaves the parameters' gradients, and the input's in the workspace. Gives the loss.
    pub(super) fn run(&mut self, target: &[Lanes], picture: Option<Picture<'_>>) -> Lanes {
        let plan = self.plan;
        for step in &plan.steps {
            match step {
                LaneStep::Block(block) => self.block(block),
                LaneStep::Merge(merge) => self.merge(merge),
            }
        }
        let (isa, out) = (self.isa, plan.out);
        let memory = &mut self.workspace.memory;
        let features = &plan.features;
        let start = Start::Bias(plan.out_bias);
        out.forward(
            isa,
            start,
            self.parameters,
            memory,
            &features.value,
            &plan.output,
            None,
        );
        let bias = &mut self.gradients[plan.out_bias..][..out.outputs];
        let loss = sigmoid_loss(isa, memory, &plan.output, target, picture, bias);
        out.weight_gradient(isa, memory, &features.value, &plan.output, self.gradients);
        let (dx, dy) = (&features.gradient, &plan.output);
        out.input_gradient(isa, Start::Zero, self.parameters, memory, dx, dy, 0);
        for step in plan.steps.iter().rev() {
            match step {
                LaneStep::Block(block) => self.block_gradient(block),
                LaneStep::Merge(merge) => self.merge_gradient(merge),
            }
        }
        loss
    }

    fn block(&mut self, block: &Block) {
        if self.plan.padding == Padding::Reflect && block.conv.kernel == 3 {
            reflect_border(&mut self.workspace.memory, &block.x);
        }
        // The normalization subtracts the bias again, so it is left out.
        let channels = &mut self.workspace.channels[block.norm.range()];
        block.conv.forward(
            self.isa,
            Start::Zero,
            self.parameters,
            &mut self.workspace.memory,
            &block.x,
            &block.convolved,
            Some(channels),
        );
        self.normalize(&block.norm, true, &block.convolved, &block.y.value);
    }

    fn merge(&mut self, merge: &Merge) {
        let Workspace { memory, channels } = &mut *self.workspace;
        let (beside, below) = channels[merge.norm.range()].split_at_mut(merge.skip);
        let part = merge.merged.part(0, merge.skip);
        norm::channel_sums(self.isa, memory, &part, beside);
        let part = merge.upsampled();
        upsample(
            self.isa,
            self.plan.upsample,
            memory,
            &merge.deeper.value,
            &part,
            below,
        );
        self.normalize(&merge.norm, false, &merge.merged, &merge.y);
    }

    /// Normalizes `x`, whose channels' sums lie where their means will be.
    fn normalize(&mut self, span: &NormSpan, leaky: bool, x: &View, y: &View) {
        let norm = span.norm(self.parameters, leaky);
        let channels = &mut self.workspace.channels[span.range()];
        let memory = &mut self.workspace.memory;
        norm::statistics(self.isa, memory, x, channels);
        norm::forward(self.isa, norm, channels, memory, x, y);
    }

    /// Turns the derivative by `y` into the one by `x`, in the place of `x`.
    fn normalize_gradient(&mut self, span: &NormSpan, leaky: bool, x: &View, dy: &View) {
        let norm = span.norm(self.parameters, leaky);
        let channels = &self.workspace.channels[span.range()];
        let gradients = &mut self.gradients[span.weight..span.bias + span.channels];
        let (dweight, dbias) = gradients.split_at_mut(span.channels);
        let memory = &mut self.workspace.memory;
        norm::backward(self.isa, norm, channels, memory, x, dy, dweight, dbias);
    }

    fn block_gradient(&mut self, block: &Block) {
        let (x, dy) = (&block.x, &block.convolved);
        self.normalize_gradient(&block.norm, true, dy, &block.y.gradient);
        let memory = &mut self.workspace.memory;
        let conv = &block.conv;
        conv.weight_gradient(self.isa, memory, x, dy, self.gradients);
        let Some(dx) = &block.dx else { return };
        let start = if block.adds {
            Start::Output
        } else {
            Start::Zero
        };
        let folds = self.plan.padding == Padding::Reflect && conv.kernel == 3;
        let edge = usize::from(folds);
        conv.input_gradient(self.isa, start, self.parameters, memory, dx, dy, edge);
        if folds {
            fold_border(memory, dx);
        }
    }

    fn merge_gradient(&mut self, merge: &Merge) {
        self.normalize_gradient(&merge.norm, false, &merge.merged, &merge.y);
        if self.plan.padding == Padding::Reflect {
            // No edge shows a shift of the whole map, and the next normalization subtracts it.
            let norm = &merge.norm;
            self.gradients[norm.bias..][..norm.channels].fill(Lanes::ZERO);
        }
        let memory = &mut self.workspace.memory;
        let (dx, dy) = (&merge.deeper.gradient, merge.upsampled());
        upsample_gradient(self.isa, self.plan.upsample, memory, dx, &dy);
    }
}
