//! What every engine checks about slots, images and outputs before it works.

use super::{At, ImageBuffer, ImageShape, Instance};
use crate::error::{Error, Result};

/// Refuses a slot beyond the capacity.
pub(crate) fn check_slot(slot: usize, capacity: usize) -> Result<()> {
    if slot < capacity {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "slot {slot} is beyond an engine of {capacity} instances"
    )))
}

/// What reading a slot that holds nothing gives.
pub(crate) fn free_slot(slot: usize) -> Error {
    Error::invalid(format!("slot {slot} holds no DIP instance; load one first"))
}

/// What reading the results of an instance that has not run gives.
pub(crate) fn not_run(slot: usize) -> Error {
    Error::invalid(format!(
        "the DIP instance in slot {slot} has not run an iteration yet"
    ))
}

/// What asking for the gradient of an input that is not optimized gives.
pub(crate) fn input_not_optimized() -> Error {
    Error::invalid("this DIP network does not optimize its input, so it has no input gradient")
}

/// Refuses instances whose slot or target does not fit the engine.
pub(crate) fn check_instances<I: ImageBuffer>(
    instances: &[Instance<'_, I>],
    capacity: usize,
    shape: ImageShape,
) -> Result<()> {
    for instance in instances {
        check_slot(instance.slot, capacity)?;
        check_images(
            instance.target.buffer,
            shape,
            instance.target.index,
            1,
            "target",
        )?;
    }
    Ok(())
}

/// Refuses a buffer without images `first .. first + count` of `shape`.
pub(crate) fn check_images(
    images: &impl ImageBuffer,
    shape: ImageShape,
    first: usize,
    count: usize,
    what: &str,
) -> Result<()> {
    if images.shape() != shape {
        return Err(Error::invalid(format!(
            "a {what} of {} for a DIP engine of {shape}",
            images.shape()
        )));
    }
    if first
        .checked_add(count)
        .is_none_or(|end| end > images.len())
    {
        return Err(Error::invalid(format!(
            "{count} {what} images from {first} on are beyond a buffer of {}",
            images.len()
        )));
    }
    Ok(())
}

/// Refuses a vector of the wrong length.
pub(crate) fn check_len(what: &str, got: usize, want: usize) -> Result<()> {
    if got == want {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{got} {what} for a DIP instance that has {want}"
    )))
}

/// Refuses images that the classifier does not take.
pub(crate) fn check_classified<I: ImageBuffer>(
    images: &[At<'_, I>],
    shape: ImageShape,
) -> Result<()> {
    let mut shapes = images.iter().map(|image| image.buffer.shape());
    match shapes.find(|&other| other != shape) {
        Some(other) => Err(Error::invalid(format!(
            "an image of {other} where the classifier takes {shape}"
        ))),
        None => Ok(()),
    }
}

/// Refuses a buffer without room for `count` gradients of `shape` from `first` on.
pub(crate) fn check_gradients(
    out: &impl ImageBuffer,
    shape: ImageShape,
    first: usize,
    count: usize,
) -> Result<()> {
    let end = first.saturating_add(count);
    if out.shape() == shape && end <= out.len() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "gradients {first}..{end} of {shape} do not fit a buffer of {} of {}",
        out.len(),
        out.shape()
    )))
}
