//! Elementwise operations: chains of them in one launch, and activations' derivatives.

use super::super::driver::{self, Address, Buffer, Device, Work};
use super::super::kernels::classifier_elementwise as kernels;
use super::axes::{Axes, Axis, bytes, check_elements, merged, per_thread};
use super::function::{self, FunctionArgs};
use super::operation::{Backward, Forward, Operation, Reads};
use super::rows::{team, team_launch};
use crate::classifier::{Binary, Function};
use crate::error::{Error, Result};

/// The most links of a chain: LINKS in the kernels' source.
pub(super) const LINKS: usize = 8;

driver::arguments! {
    struct ChainLink {
        kind: u32,
        right: u32,
        function: FunctionArgs,
        known: u32,
        first: Address,
        second: Address,
        axes: Axes,
    }

    struct Chain {
        head: Address,
        known: u32,
        count: u32,
        axes: Axes,
        links: [ChainLink; LINKS],
    }

    struct ChainArgs {
        chain: Chain,
        output: Address,
        elements: u32,
    }

    struct ChainSlopeArgs {
        chain: Chain,
        by: u32,
        gradient: Address,
        to: Address,
        accumulate: u32,
        elements: u32,
    }

    struct ChainSumArgs {
        chain: Chain,
        by: u32,
        gradient: Address,
        to: Address,
        accumulate: u32,
        elements: u32,
        terms: u32,
        kept: Axes,
        summed: Axes,
        team: u32,
    }

    struct ActivationSlopeArgs {
        function: FunctionArgs,
        from_value: u32,
        known: Address,
        gradient: Address,
        elements: u32,
    }
}

/// What a chain reads: a tensor that broadcasts to the chain's shape.
#[derive(Clone, Copy)]
pub(super) struct Tensor<'a> {
    pub dims: &'a [usize],
    /// A constant's elements; else it is the next of the operation's inputs.
    pub constant: Option<&'a [f32]>,
}

enum Data {
    Input(usize),
    Constant(Buffer<f32>),
}

/// The output elements that an element of an operand goes into, where those are several.
struct Spread {
    terms: usize,
    kept: Axes,
    summed: Axes,
    team: u32,
}

struct Operand {
    data: Data,
    /// Elements, of one image where it is computed.
    elements: usize,
    axes: Axes,
    /// Of what is computed.
    spread: Option<Spread>,
}

impl Operand {
    /// A tensor in a chain with outputs of shape `output`; the operation has `inputs` so far.
    fn new(
        device: &Device,
        tensor: Tensor<'_>,
        output: &[usize],
        inputs: &mut usize,
    ) -> Result<Operand> {
        let Tensor { dims, constant } = tensor;
        let elements: usize = dims.iter().product();
        let new = output.len() - dims.len();
        // From the innermost axis on; images come last.
        let (mut axes, mut kept, mut summed) = (vec![], vec![], vec![]);
        let (mut stride, mut apart) = (1, 1);
        for (axis, &size) in output.iter().enumerate().rev() {
            let own = axis.checked_sub(new).map_or(1, |axis| dims[axis]);
            if own == 1 {
                axes.push(Axis::new(size, 0));
                summed.push(Axis::new(size, apart));
            } else {
                axes.push(Axis::new(size, stride));
                kept.push(Axis::new(size, apart));
            }
            stride *= own;
            apart *= size;
        }
        axes.push(Axis::images(if constant.is_some() { 0 } else { elements }));
        kept.push(Axis::images(apart));
        let [axes, kept, summed] = [axes, kept, summed].map(|axes| merged(axes.into_iter().rev()));
        let terms: usize = summed.iter().map(|axis| axis.size).product();
        let spread = match summed.last() {
            Some(last) if constant.is_none() => Some(Spread {
                terms,
                team: team(terms, last.stride == Some(1)),
                kept: Axes::new(&kept)?,
                summed: Axes::new(&summed)?,
            }),
            _ => None,
        };
        let data = match constant {
            Some(constant) => Data::Constant(device.allocate_with(constant)?),
            None => {
                *inputs += 1;
                Data::Input(*inputs - 1)
            }
        };
        Ok(Operand {
            data,
            elements,
            axes: Axes::new(&axes)?,
            spread,
        })
    }

    fn is_computed(&self) -> bool {
        matches!(self.data, Data::Input(_))
    }

    /// Its address, and whether it may be read.
    fn at(&self, inputs: &[Address], known: bool) -> (Address, u32) {
        match &self.data {
            Data::Input(_) if !known => (Address(0), 0),
            Data::Input(i) => (inputs[*i], 1),
            Data::Constant(data) => (data.at(0), 1),
        }
    }

    /// Numbers that lie in memory for so many images, of those that may be read.
    fn numbers(&self, images: usize, known: bool) -> usize {
        match self.data {
            Data::Input(_) if !known => 0,
            Data::Input(_) => images * self.elements,
            Data::Constant(_) => self.elements,
        }
    }
}

enum ChainKind {
    Map,
    ScaleShift {
        scale: Buffer<f32>,
        shift: Buffer<f32>,
        axes: Box<Axes>,
    },
    Binary {
        op: Binary,
        /// Whether the chain's value is its right side.
        right: bool,
        operand: Box<Operand>,
    },
}

/// What a chain's value goes through: the kind, then the function.
struct Link {
    kind: ChainKind,
    function: Option<Function>,
}

impl Link {
    /// Whether its derivative depends on the chain's value, or on a computed operand's.
    fn bends(&self) -> bool {
        let by_kind = match &self.kind {
            ChainKind::Map | ChainKind::ScaleShift { .. } => false,
            ChainKind::Binary { op, right, operand } => match op {
                Binary::Add | Binary::Sub => false,
                Binary::Mul => operand.is_computed(),
                Binary::Div => *right || operand.is_computed(),
                Binary::Pow | Binary::Min | Binary::Max => true,
            },
        };
        by_kind || !matches!(self.function, None | Some(Function::Neg))
    }

    fn multiply_adds(&self) -> u64 {
        let by_kind = matches!(self.kind, ChainKind::ScaleShift { .. }).into();
        self.function
            .map_or(by_kind, |f| by_kind + function::multiply_adds(f))
    }

    fn layout(&self, inputs: &[Address], known: bool) -> ChainLink {
        let mut link = ChainLink {
            kind: 0,
            right: 0,
            function: self.function.into(),
            known: 0,
            first: Address(0),
            second: Address(0),
            axes: Axes::dense(),
        };
        match &self.kind {
            ChainKind::Map => {}
            ChainKind::ScaleShift { scale, shift, axes } => {
                link.kind = 1;
                (link.first, link.second) = (scale.at(0), shift.at(0));
                link.axes = **axes;
            }
            ChainKind::Binary { op, right, operand } => {
                link.kind = match op {
                    Binary::Add => 2,
                    Binary::Sub => 3,
                    Binary::Mul => 4,
                    Binary::Div => 5,
                    Binary::Pow => 6,
                    Binary::Min => 7,
                    Binary::Max => 8,
                };
                link.right = (*right).into();
                (link.first, link.known) = operand.at(inputs, known);
                link.axes = operand.axes;
            }
        }
        link
    }
}

/// A chain of elementwise operations: it begins with the head's elements, and each link makes new ones.
/// Its inputs are those of the head and of the links' operands that are computed, in this order.
///
/// It ends with its last link; a pass's activation is not for it.
pub(super) struct Elementwise {
    head: Operand,
    links: Vec<Link>,
    /// Of an image's output.
    elements: usize,
    inputs: usize,
}

impl Elementwise {
    /// The head's elements in the shape `output`: without links, a copy for each image.
    ///
    /// # Errors
    /// Shapes beyond what the kernels can address, or no memory for a constant.
    pub(super) fn new(device: &Device, head: Tensor<'_>, output: &[usize]) -> Result<Elementwise> {
        let elements = output.iter().product();
        check_elements(elements)?;
        let mut inputs = 0;
        Ok(Elementwise {
            head: Operand::new(device, head, output, &mut inputs)?,
            links: Vec::new(),
            elements,
            inputs,
        })
    }

    fn push(&mut self, kind: ChainKind, function: Option<Function>) -> Result<()> {
        if self.links.len() == LINKS {
            return Err(Error::invalid(format!(
                "a chain of more than {LINKS} elementwise operations"
            )));
        }
        self.links.push(Link { kind, function });
        Ok(())
    }

    /// Then a function.
    ///
    /// # Errors
    /// The chain has [`LINKS`] already.
    pub(super) fn map(&mut self, function: Function) -> Result<()> {
        match self.links.last_mut() {
            Some(link) if link.function.is_none() => {
                link.function = Some(function);
                Ok(())
            }
            _ => self.push(ChainKind::Map, Some(function)),
        }
    }

    /// Then a scale and a shift for each channel, the second axis of the shape `output`, and a function.
    ///
    /// # Errors
    /// As for [`new`](Self::new) and [`map`](Self::map).
    pub(super) fn scale_shift(
        &mut self,
        device: &Device,
        scale: &[f32],
        shift: &[f32],
        output: &[usize],
        function: Option<Function>,
    ) -> Result<()> {
        let channels = output.get(1).copied().unwrap_or_default();
        if (scale.len(), shift.len()) != (channels, channels) {
            return Err(Error::invalid(format!(
                "{} scales and {} shifts for {channels} channels",
                scale.len(),
                shift.len()
            )));
        }
        let plane = output.iter().skip(2).product();
        let axes = [Axis::images(0), Axis::new(channels, 1), Axis::new(plane, 0)];
        let kind = ChainKind::ScaleShift {
            scale: device.allocate_with(scale)?,
            shift: device.allocate_with(shift)?,
            axes: Box::new(Axes::new(&merged(axes))?),
        };
        self.push(kind, function)
    }

    /// Then a function of two sides, the chain's value on the `right` or the left and an operand on the
    /// other; the chain's value has the shape `output` already.
    ///
    /// # Errors
    /// As for [`new`](Self::new) and [`map`](Self::map).
    pub(super) fn binary(
        &mut self,
        device: &Device,
        op: Binary,
        right: bool,
        operand: Tensor<'_>,
        output: &[usize],
    ) -> Result<()> {
        let operand = Operand::new(device, operand, output, &mut self.inputs)?;
        let operand = Box::new(operand);
        self.push(ChainKind::Binary { op, right, operand }, None)
    }

    /// The head and the links' operands, by the kernels' numbers for them.
    fn operands(&self) -> impl Iterator<Item = (u32, &Operand)> {
        let links = self.links.iter().map(|link| match &link.kind {
            ChainKind::Binary { operand, .. } => Some(&**operand),
            _ => None,
        });
        let all = (0..).zip([Some(&self.head)].into_iter().chain(links));
        all.filter_map(|(by, operand)| Some((by, operand?)))
    }

    fn layout(&self, inputs: &[Address], known: bool) -> Chain {
        let (head, head_known) = self.head.at(inputs, known);
        let nothing = Link {
            kind: ChainKind::Map,
            function: None,
        };
        let mut links = [nothing.layout(&[], false); LINKS];
        for (to, link) in links.iter_mut().zip(&self.links) {
            *to = link.layout(inputs, known);
        }
        Chain {
            head,
            known: head_known,
            count: self.links.len() as u32,
            axes: self.head.axes,
            links,
        }
    }

    /// Bytes that a launch reads of the operands that may be read.
    fn bytes(&self, images: usize, known: bool) -> u64 {
        let operands = self
            .operands()
            .map(|(_, operand)| operand.numbers(images, known));
        bytes(1, operands.sum::<usize>() + self.channels())
    }

    /// Numbers of the scales and shifts.
    fn channels(&self) -> usize {
        let channels = self.links.iter().map(|link| match &link.kind {
            ChainKind::ScaleShift { scale, shift, .. } => scale.len() + shift.len(),
            _ => 0,
        });
        channels.sum()
    }
}

impl Operation for Elementwise {
    fn forward(&self, pass: Forward<'_>) -> driver::Result<()> {
        let elements = pass.images * self.elements;
        let multiply_adds: u64 = self.links.iter().map(Link::multiply_adds).sum();
        let work = Work {
            bytes: self.bytes(pass.images, true) + bytes(1, elements),
            multiply_adds: elements as u64 * multiply_adds,
            ..Work::default()
        };
        let arguments = ChainArgs {
            chain: self.layout(pass.inputs, true),
            output: pass.output,
            elements: elements as u32,
        };
        let launch = per_thread(elements as u32).doing(work);
        pass.device
            .launch(&kernels::CLASSIFIER_CHAIN, launch, &arguments)
    }

    fn backward(&self, pass: Backward<'_>) -> driver::Result<()> {
        let (by, operand) = self
            .operands()
            .find(|(_, operand)| matches!(operand.data, Data::Input(i) if i == pass.input))
            .expect("the gradient is by one of the inputs");
        let known = self.reads().inputs;
        let elements = pass.images * self.elements;
        let written = pass.images * operand.elements * if pass.accumulate { 2 } else { 1 };
        let derivatives = self.links.iter().map(|link| {
            link.multiply_adds() + link.function.map_or(0, function::derivative_multiply_adds)
        });
        let mut work = Work {
            bytes: self.bytes(pass.images, known) + bytes(1, elements + written),
            multiply_adds: elements as u64 * derivatives.sum::<u64>(),
            ..Work::default()
        };
        let chain = self.layout(pass.inputs, known);
        let Some(spread) = &operand.spread else {
            let arguments = ChainSlopeArgs {
                chain,
                by,
                gradient: pass.gradient,
                to: pass.to,
                accumulate: pass.accumulate.into(),
                elements: elements as u32,
            };
            let launch = per_thread(elements as u32).doing(work);
            let kernel = &kernels::CLASSIFIER_CHAIN_SLOPE;
            return pass.device.launch(kernel, launch, &arguments);
        };
        let sums = (pass.images * operand.elements) as u32;
        let arguments = ChainSumArgs {
            chain,
            by,
            gradient: pass.gradient,
            to: pass.to,
            accumulate: pass.accumulate.into(),
            elements: sums,
            terms: spread.terms as u32,
            kept: spread.kept,
            summed: spread.summed,
            team: spread.team,
        };
        work.multiply_adds += elements as u64;
        let launch = team_launch(sums, spread.team).doing(work);
        let kernel = &kernels::CLASSIFIER_CHAIN_SUM;
        pass.device.launch(kernel, launch, &arguments)
    }

    fn reads(&self) -> Reads {
        Reads {
            inputs: self.links.iter().any(Link::bends),
            output: false,
        }
    }

    fn constant_bytes(&self) -> usize {
        let operands = self.operands().map(|(_, operand)| match &operand.data {
            Data::Constant(data) => data.bytes(),
            Data::Input(_) => 0,
        });
        operands.sum::<usize>() + self.channels() * size_of::<f32>()
    }
}

/// Writes a function's values at `n` numbers.
pub(super) fn apply(
    device: &Device,
    function: Function,
    from: Address,
    to: Address,
    n: usize,
) -> driver::Result<()> {
    let chain = Elementwise {
        head: Operand {
            data: Data::Input(0),
            elements: n,
            axes: Axes::dense(),
            spread: None,
        },
        links: vec![Link {
            kind: ChainKind::Map,
            function: Some(function),
        }],
        elements: n,
        inputs: 1,
    };
    chain.forward(Forward {
        device,
        images: 1,
        inputs: &[from],
        activation: None,
        output: to,
    })
}

/// Turns `n` numbers of a gradient by a function's value into those by its argument. `known` is the value
/// where the function's derivative follows from it, else the argument.
pub(super) fn activation_slope(
    device: &Device,
    function: Function,
    known: Address,
    gradient: Address,
    n: usize,
) -> driver::Result<()> {
    let from_value = function.derivative_from_value();
    let arguments = ActivationSlopeArgs {
        function: Some(function).into(),
        from_value: from_value.into(),
        known,
        gradient,
        elements: n as u32,
    };
    let multiply_adds = match from_value {
        true => 0,
        false => function::derivative_multiply_adds(function),
    };
    let launch = per_thread(n as u32).doing(Work {
        bytes: bytes(1, 3 * n),
        multiply_adds: n as u64 * multiply_adds,
        ..Work::default()
    });
    device.launch(&kernels::CLASSIFIER_ACTIVATION_SLOPE, launch, &arguments)
}

#[cfg(test)]
mod tests;
