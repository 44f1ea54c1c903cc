//! Einsum: diagonals, sums along axes, and batched matrix products of two operands at a time.

use super::builder::{Call, Item, Outputs};
use crate::classifier::graph::{Op, Reduction};

/// Names an axis: a letter, or one of those that an ellipsis stands for, counted from its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Ellipsis(usize),
    Letter(char),
}

/// A tensor with a label for each of its axes.
struct Operand {
    item: Item,
    labels: Vec<Label>,
}

/// The labels of one part of an equation, whose ellipsis stands for `ellipsis` axes.
fn labels(text: &str, ellipsis: usize) -> Result<Vec<Label>, String> {
    let letters = |text: &str| -> Result<Vec<Label>, String> {
        match text.chars().all(|c| c.is_ascii_alphabetic()) {
            true => Ok(text.chars().map(Label::Letter).collect()),
            false => Err(format!("equation part \"{text}\" is not supported")),
        }
    };
    match text.split_once("...") {
        None => letters(text),
        Some((before, after)) => {
            let between: Vec<Label> = (0..ellipsis).rev().map(Label::Ellipsis).collect();
            Ok([letters(before)?, between, letters(after)?].concat())
        }
    }
}

impl Operand {
    /// The operand that part `text` of an equation describes.
    fn new(call: &mut Call<'_>, item: Item, text: &str) -> Result<Operand, String> {
        let rank = item.dims().len();
        let named = text.replace("...", "").len();
        let labels = labels(text, rank.saturating_sub(named))?;
        if labels.len() != rank {
            return Err(format!(
                "equation part \"{text}\" does not fit {:?}",
                item.dims()
            ));
        }
        let mut operand = Operand { item, labels };
        // An ellipsis broadcasts: an axis of length 1 is as good as none.
        for at in (0..rank).rev() {
            if matches!(operand.labels[at], Label::Ellipsis(_)) && operand.item.dims()[at] == 1 {
                let mut dims = operand.item.dims().to_vec();
                dims.remove(at);
                operand.labels.remove(at);
                operand.item = call.reshape(operand.item, dims)?;
            }
        }
        while let Some(label) = operand.repeated() {
            operand = operand.diagonal(call, label)?;
        }
        Ok(operand)
    }

    fn has(&self, label: &Label) -> bool {
        self.labels.contains(label)
    }

    /// The length of the axis of this label.
    fn length(&self, label: Label) -> Option<usize> {
        let at = self.labels.iter().position(|&other| other == label)?;
        Some(self.item.dims()[at])
    }

    /// The lengths of the axes of these labels, all of which it has.
    fn lengths(&self, labels: &[Label]) -> Vec<usize> {
        (labels.iter())
            .filter_map(|&label| self.length(label))
            .collect()
    }

    /// The labels for which `kept` holds.
    fn select(&self, kept: impl Fn(&Label) -> bool) -> Vec<Label> {
        self.labels.iter().copied().filter(kept).collect()
    }

    fn repeated(&self) -> Option<Label> {
        let mut all = self.labels.iter().enumerate();
        let found = all.find(|(i, label)| self.labels[..*i].contains(label));
        found.map(|(_, &label)| label)
    }

    /// The elements whose first two indices of this label are equal, that label now the last.
    fn diagonal(self, call: &mut Call<'_>, label: Label) -> Result<Operand, String> {
        let mut perm: Vec<usize> = (0..self.labels.len()).collect();
        let twice: Vec<usize> = (perm.iter().copied())
            .filter(|&at| self.labels[at] == label)
            .take(2)
            .collect();
        perm.retain(|at| !twice.contains(at));
        let mut labels: Vec<Label> = perm.iter().map(|&at| self.labels[at]).collect();
        let mut dims: Vec<usize> = perm.iter().map(|&at| self.item.dims()[at]).collect();
        let [n, m] = [twice[0], twice[1]].map(|at| self.item.dims()[at]);
        if n != m {
            return Err(format!("axis {} is {n} and {m} long", shown(label)));
        }
        perm.extend(twice);
        let moved = perm.iter().map(|&at| self.item.dims()[at]).collect();
        let item = call.apply(Op::Transpose { perm }, &[self.item], moved)?;
        let item = call.reshape(item, [&dims[..], &[n * n]].concat())?;
        let op = Op::Gather {
            axis: dims.len(),
            indices: (0..n).map(|i| i * (n + 1)).collect(),
        };
        labels.push(label);
        dims.push(n);
        let item = call.apply(op, &[item], dims)?;
        Ok(Operand { item, labels })
    }

    /// The sum along the axes whose labels are not `needed`.
    fn summed(self, call: &mut Call<'_>, needed: impl Fn(&Label) -> bool) -> Result<Self, String> {
        let axes: Vec<usize> = (0..self.labels.len())
            .filter(|&at| !needed(&self.labels[at]))
            .collect();
        if axes.is_empty() {
            return Ok(self);
        }
        let item = call.reduce(Reduction::Sum, &axes, false, &self.item)?;
        let labels = self.select(needed);
        Ok(Operand { item, labels })
    }

    /// With its axes in the order of `labels`, which are its own.
    fn ordered(self, call: &mut Call<'_>, labels: &[Label]) -> Result<Item, String> {
        let place = |label| self.labels.iter().position(|other| other == label);
        let perm: Vec<usize> = labels.iter().filter_map(place).collect();
        let dims = perm.iter().map(|&at| self.item.dims()[at]).collect();
        call.apply(Op::Transpose { perm }, &[self.item], dims)
    }

    /// The product with another operand, summed along the axes that both have and that are not
    /// `needed`.
    fn times(
        self,
        call: &mut Call<'_>,
        other: Operand,
        needed: impl Fn(&Label) -> bool,
    ) -> Result<Operand, String> {
        for &label in &self.labels {
            if let (Some(n), Some(m)) = (self.length(label), other.length(label))
                && n != m
            {
                return Err(format!("axis {} is {n} and {m} long", shown(label)));
            }
        }
        let others = other.labels.clone();
        let a = self.summed(call, |label| needed(label) || others.contains(label))?;
        let own = a.labels.clone();
        let b = other.summed(call, |label| needed(label) || own.contains(label))?;
        let batch = a.select(|label| b.has(label) && needed(label));
        let inner = a.select(|label| b.has(label) && !needed(label));
        let rows = a.select(|label| !b.has(label));
        let columns = b.select(|label| !a.has(label));
        let labels = [&batch[..], &rows, &columns].concat();
        let (batch_dims, row_dims, column_dims) =
            (a.lengths(&batch), a.lengths(&rows), b.lengths(&columns));
        let [m, k, n] = [&row_dims, &a.lengths(&inner), &column_dims]
            .map(|dims| dims.iter().product::<usize>());
        let a = a.ordered(call, &[&batch[..], &rows, &inner].concat())?;
        let a = call.reshape(a, [&batch_dims[..], &[m, k]].concat())?;
        let b = b.ordered(call, &[&batch[..], &inner, &columns].concat())?;
        let b = call.reshape(b, [&batch_dims[..], &[k, n]].concat())?;
        let product = call.apply(Op::MatMul, &[a, b], [&batch_dims[..], &[m, n]].concat())?;
        let apart = [batch_dims, row_dims, column_dims].concat();
        let item = call.reshape(product, apart)?;
        Ok(Operand { item, labels })
    }
}

fn shown(label: Label) -> String {
    match label {
        Label::Letter(letter) => letter.to_string(),
        Label::Ellipsis(_) => "...".into(),
    }
}

pub(super) fn einsum(call: &mut Call<'_>) -> Outputs {
    let equation = call.string("equation", "")?;
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (&equation[..], None),
    };
    let parts: Vec<&str> = left.split(',').collect();
    if parts.len() != call.count() {
        return Err(format!(
            "equation {equation} is not of {} operands",
            call.count()
        ));
    }
    let mut operands = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let item = call.input(i)?;
        operands.push(Operand::new(call, item, part)?);
    }
    let output = match right {
        Some(right) => labels(right, widest(call, &parts)?)?,
        None => {
            // The ellipsis, then in alphabetical order the letters that occur once.
            let mut letters: Vec<Label> = (left.chars().filter(char::is_ascii_alphabetic))
                .filter(|&c| left.matches(c).count() == 1)
                .map(Label::Letter)
                .collect();
            letters.sort_unstable();
            let ellipsis = match left.contains("...") {
                true => labels("...", widest(call, &parts)?)?,
                false => Vec::new(),
            };
            [ellipsis, letters].concat()
        }
    };
    if (1..output.len()).any(|i| output[..i].contains(&output[i])) {
        return Err(format!(
            "equation {equation} has an axis twice in its output"
        ));
    }
    let mut rest = operands.into_iter();
    let mut product = rest.next().ok_or("it has no operands")?;
    while let Some(next) = rest.next() {
        let needed = |label: &Label| {
            output.contains(label) || rest.as_slice().iter().any(|operand| operand.has(label))
        };
        product = product.times(call, next, needed)?;
    }
    let product = product.summed(call, |label| output.contains(label))?;
    // Axes of an ellipsis that are 1 in every operand come back.
    let dims: Vec<usize> = (output.iter())
        .map(|&label| match (product.length(label), label) {
            (Some(length), _) => Ok(length),
            (None, Label::Ellipsis(_)) => Ok(1),
            (None, Label::Letter(letter)) => Err(format!("nothing has axis {letter}")),
        })
        .collect::<Result<_, _>>()?;
    let ordered = product.ordered(call, &output)?;
    Ok(vec![call.reshape(ordered, dims)?])
}

/// Axes of the longest ellipsis among the operands, which broadcast.
fn widest(call: &Call<'_>, parts: &[&str]) -> Result<usize, String> {
    let mut widest = 0;
    for (i, part) in parts.iter().enumerate().filter(|(_, p)| p.contains("...")) {
        let rank = call.input(i)?.dims().len();
        widest = widest.max(rank.saturating_sub(part.len() - 3));
    }
    Ok(widest)
}
