//! Pictures from numpy's arrays, and arrays of results.

use backstitch::input::{Layout, picture};
use backstitch::picture::{ImageShape, check_size, rgb, write_png};
use backstitch::{Error, Picture, Result};
use numpy::ndarray::{ArrayView3, ArrayViewD, Axis, Ix3};
use numpy::{
    Element, PyArray1, PyArrayDyn, PyArrayMethods, PyReadonlyArray3, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::raised;

/// Pictures that were copied from arrays, or decoded.
pub(crate) struct Pictures {
    /// Those that cannot be decoded are errors.
    pub(crate) pictures: Vec<Result<Picture>>,
    /// Whether the arrays have channels last.
    pub(crate) interleaved: bool,
}

impl Pictures {
    /// The pictures, if all could be decoded.
    pub(crate) fn all(self) -> PyResult<Vec<Picture>> {
        let all = self.pictures.into_iter().collect::<Result<_>>();
        all.map_err(raised)
    }
}

/// Copies pictures: of an array with four axes; or of a list of arrays with three, which may have different sizes,
/// and of image files' bytes, which are decoded.
///
/// Numbers are uint8, or float32 or float64 from 0 to 1. The order of the axes follows from the shapes where
/// `layout` does not say it.
pub(crate) fn pictures(x: &Bound<'_, PyAny>, layout: Option<Layout>) -> PyResult<Pictures> {
    if let Ok(array) = x.cast::<PyUntypedArray>() {
        let name = "the array of pictures";
        return numbers(array, name)?.batch(layout).map_err(raised);
    }
    let single = layout.map(|layout| match layout.interleaved() {
        true => Layout::Hwc,
        false => Layout::Chw,
    });
    let mut found = Pictures {
        pictures: Vec::new(),
        interleaved: layout.is_some_and(Layout::interleaved),
    };
    for (i, item) in x.try_iter()?.enumerate() {
        let name = format!("picture {i}");
        let item = item?;
        if let Ok(file) = item.cast::<PyBytes>() {
            let bytes = file.as_bytes();
            let picture = x.py().detach(|| Picture::decode(bytes));
            found
                .pictures
                .push(picture.map_err(|error| Error::invalid(format!("{name} {error}"))));
            continue;
        }
        let array = item.cast::<PyUntypedArray>()?;
        let (picture, interleaved) = numbers(array, &name)?.single(single).map_err(raised)?;
        if i == 0 {
            found.interleaved = interleaved;
        }
        found.pictures.push(Ok(picture));
    }
    Ok(found)
}

/// The PNG of a picture (3, H, W) of floats from 0 to 1, as the command line writes it.
#[pyfunction]
pub(crate) fn png<'py>(
    py: Python<'py>,
    image: PyReadonlyArray3<'py, f32>,
) -> PyResult<Bound<'py, PyBytes>> {
    let image = image.as_array();
    let &[3, height, width] = image.shape() else {
        return Err(raised(Error::invalid("a PNG is of 3 channels")));
    };
    let pixels: Vec<f32> = image.iter().copied().collect();
    let mut file = Vec::new();
    write_png(&mut file, rgb(height, width), &pixels)?;
    Ok(PyBytes::new(py, &file))
}

/// An array of a type that pictures may have.
enum Numbers<'a, 'py> {
    U8(Typed<'a, 'py, u8>),
    F32(Typed<'a, 'py, f32>),
    F64(Typed<'a, 'py, f64>),
}

struct Typed<'a, 'py, T: Element> {
    array: &'a Bound<'py, PyArrayDyn<T>>,
    name: &'a str,
}

/// The array with its type.
fn numbers<'a, 'py>(
    array: &'a Bound<'py, PyUntypedArray>,
    name: &'a str,
) -> PyResult<Numbers<'a, 'py>> {
    let any = array.as_any();
    if let Ok(array) = any.cast() {
        return Ok(Numbers::U8(Typed { array, name }));
    }
    if let Ok(array) = any.cast() {
        return Ok(Numbers::F32(Typed { array, name }));
    }
    if let Ok(array) = any.cast() {
        return Ok(Numbers::F64(Typed { array, name }));
    }
    let (dtype, shape) = (array.dtype().str()?.to_string(), array.shape());
    Err(raised(Error::invalid(format!(
        "{name} is {dtype} of shape {shape:?}; pictures are uint8, or floats from 0 to 1"
    ))))
}

impl Numbers<'_, '_> {
    fn batch(&self, layout: Option<Layout>) -> Result<Pictures> {
        match self {
            Numbers::U8(typed) => typed.batch(layout, |x| f32::from(x) / 255.0, true),
            Numbers::F32(typed) => typed.batch(layout, |x| x, false),
            Numbers::F64(typed) => typed.batch(layout, |x| x as f32, false),
        }
    }

    fn single(&self, layout: Option<Layout>) -> Result<(Picture, bool)> {
        match self {
            Numbers::U8(typed) => typed.single(layout, |x| f32::from(x) / 255.0, true),
            Numbers::F32(typed) => typed.single(layout, |x| x, false),
            Numbers::F64(typed) => typed.single(layout, |x| x as f32, false),
        }
    }
}

impl<T: Element + Copy> Typed<'_, '_, T> {
    /// The array's numbers. They are read while Python waits, and nobody writes them.
    fn view<R>(&self, read: impl FnOnce(ArrayViewD<'_, T>) -> Result<R>) -> Result<R> {
        let busy = |error| Error::invalid(format!("{}: {error}", self.name));
        let array = self.array.try_readonly().map_err(busy)?;
        read(array.as_array())
    }

    /// The layout of an array of `axes` axes, and its pictures, channels, height and width.
    fn layout(&self, layout: Option<Layout>, axes: usize) -> Result<(Layout, [usize; 4])> {
        let shape = self.array.shape();
        let dtype = self.array.dtype();
        let about = format!("{} ({dtype}) ", self.name);
        if shape.len() != axes {
            let other = format!("{about}has shape {shape:?}; {axes} axes are needed");
            let hint = match (shape.len(), axes) {
                (3, 4) => "for one picture, give the array x[None]",
                _ => "give an array of 4 axes, or a list of arrays of 3",
            };
            return Err(Error::invalid(other).hint(hint));
        }
        let named = |message: backstitch::error::Message| Error::invalid(message.before(&about));
        let layout = layout.map_or_else(|| Layout::infer(shape), Ok);
        let layout = layout.map_err(named)?;
        let dimensions = layout.dimensions(shape).map_err(|m| named(m.into()))?;
        check_size(dimensions[3], dimensions[2]).map_err(|m| named(m.into()))?;
        Ok((layout, dimensions))
    }

    fn batch(
        &self,
        layout: Option<Layout>,
        float: impl Fn(T) -> f32,
        eight_bit: bool,
    ) -> Result<Pictures> {
        let (layout, [count, _, height, width]) = self.layout(layout, 4)?;
        let interleaved = layout.interleaved();
        let pictures = self.view(|view| {
            let pictures = (0..count).map(|row| {
                let rows = view.index_axis(Axis(0), row);
                let rows = rows.into_dimensionality::<Ix3>().map_err(shapeless)?;
                let values = planes(rows, interleaved, &float);
                let picture = self.picture(
                    values,
                    rgb(height, width),
                    eight_bit,
                    interleaved,
                    Some(row),
                );
                picture.map(Ok)
            });
            pictures.collect::<Result<Vec<_>>>()
        })?;
        Ok(Pictures {
            pictures,
            interleaved,
        })
    }

    fn single(
        &self,
        layout: Option<Layout>,
        float: impl Fn(T) -> f32,
        eight_bit: bool,
    ) -> Result<(Picture, bool)> {
        let (layout, [_, _, height, width]) = self.layout(layout, 3)?;
        let interleaved = layout.interleaved();
        let picture = self.view(|view| {
            let rows = view.into_dimensionality::<Ix3>().map_err(shapeless)?;
            let values = planes(rows, interleaved, &float);
            self.picture(values, rgb(height, width), eight_bit, interleaved, None)
        })?;
        Ok((picture, interleaved))
    }

    /// The picture of planes of numbers; `row` is its place in the array, if that has an axis of pictures.
    fn picture(
        &self,
        values: Vec<f32>,
        shape: ImageShape,
        eight_bit: bool,
        interleaved: bool,
        row: Option<usize>,
    ) -> Result<Picture> {
        picture(values, shape, eight_bit).map_err(|wrong| {
            let [channel, y, x] = wrong.place;
            let place = match interleaved {
                true => [y, x, channel],
                false => [channel, y, x],
            };
            let index: Vec<usize> = row.into_iter().chain(place).collect();
            let about = format!("{} ({}) ", self.name, self.array.dtype());
            Error::invalid(wrong.message(&index).before(&about))
        })
    }
}

fn shapeless(error: numpy::ndarray::ShapeError) -> Error {
    Error::invalid(error.to_string())
}

/// A picture's numbers, one channel after the other.
fn planes<T: Copy>(
    view: ArrayView3<'_, T>,
    interleaved: bool,
    float: impl Fn(T) -> f32,
) -> Vec<f32> {
    let view = match interleaved {
        true => view.permuted_axes([2, 0, 1]),
        false => view,
    };
    view.iter().map(|&x| float(x)).collect()
}

/// An array of `rows` rows of shape `row`, which `write` fills one by one; rows that it gives nothing for are NaN.
pub(crate) fn stacked<'py, 'a>(
    py: Python<'py>,
    rows: impl ExactSizeIterator<Item = Option<&'a [f32]>>,
    row: &[usize],
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let (count, length) = (rows.len(), row.iter().product::<usize>());
    let array = PyArray1::<f32>::zeros(py, count * length, false);
    {
        let mut array = array.try_readwrite()?;
        let all = array.as_slice_mut()?;
        for (to, from) in all.chunks_exact_mut(length.max(1)).zip(rows) {
            match from {
                Some(from) => to.copy_from_slice(from),
                None => to.fill(f32::NAN),
            }
        }
    }
    let shape: Vec<usize> = [&[count], row].concat();
    array.reshape(shape)
}
