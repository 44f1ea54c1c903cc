//! Reads pickles of tensors and of NumPy's arrays without running code.
//!
//! A pickle is a program for a small stack machine, and Python's machine runs any function that the pickle
//! names. This one knows only the instructions that `torch.save` and CIFAR's authors write for dicts, lists,
//! tuples, numbers, strings, tensors and arrays, and refuses a file at the first other name.
//!
//! Values are in one list and refer to each other by index. Depth, sharing and cycles therefore need no
//! recursion, and no instruction allocates more memory than its own length.

use std::collections::HashMap;

use super::stored::{Dtype, numpy_dtype};

/// The longest pickle of tensors that is read, in bytes; that of a dict of tensors is less than a kilobyte.
pub(crate) const MAX_BYTES: u64 = 16 << 20;
/// The most values that a pickle may have: CIFAR-100's has 150,000 labels and names.
const MAX_VALUES: usize = 16 << 20;

/// Index of a value in the [`Pickle`].
type Id = usize;

/// The type of the elements of a class of `torch`.
fn dtype_of_storage(class: &str) -> Option<Dtype> {
    Some(match class {
        "BoolStorage" => Dtype::Bool,
        "ByteStorage" => Dtype::U8,
        "CharStorage" => Dtype::I8,
        "ShortStorage" => Dtype::I16,
        "IntStorage" => Dtype::I32,
        "LongStorage" => Dtype::I64,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::Bf16,
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        _ => return None,
    })
}

/// Where a tensor's elements are, as the pickle says; not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub dtype: Dtype,
    /// The name of its storage, which tensors may share.
    pub storage: String,
    /// Elements of the storage.
    pub storage_elements: usize,
    /// Index of its first element in the storage.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// Elements between neighbors along each axis.
    pub strides: Vec<usize>,
}

/// An array of NumPy in the pickle, as it says; not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Array {
    pub dtype: Dtype,
    pub big_endian: bool,
    pub shape: Vec<usize>,
    pub fortran_order: bool,
    /// Where its elements start in the pickle.
    pub start: usize,
    /// Bytes of its elements.
    pub length: usize,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// Bytes, or a string of Python 2: where they start in the pickle, how many they are, and what they say where
    /// they are at most 255 of UTF-8.
    Bytes {
        start: usize,
        length: usize,
        text: Option<String>,
    },
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Tensor(Tensor),
    /// `torch.FloatStorage` and the like.
    StorageClass(Dtype),
    Storage {
        dtype: Dtype,
        name: String,
        elements: usize,
    },
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `numpy.core.multiarray._reconstruct`.
    Reconstruct,
    /// `numpy.ndarray`.
    ArrayClass,
    /// `numpy.dtype`.
    DtypeClass,
    /// A type of elements, and whether their most significant byte comes first.
    Dtype(Dtype, bool),
    /// An array of NumPy; `None` until it gets its elements.
    Array(Option<Array>),
}

impl Value {
    /// What a string says, whichever Python wrote it.
    fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Bytes { text, .. } => text.as_deref(),
            _ => None,
        }
    }
}

/// What a pickle holds.
#[derive(Debug)]
pub(crate) struct Pickle {
    values: Vec<Value>,
    root: Id,
}

impl Pickle {
    /// Reads a pickle.
    ///
    /// # Errors
    /// The pickle is damaged, or holds more than values and tensors; the message follows "its pickle".
    pub(crate) fn parse(bytes: &[u8]) -> Result<Pickle, String> {
        let mut machine = Machine {
            length: bytes.len(),
            rest: bytes,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        loop {
            if let Some(root) = machine.step()? {
                return Ok(Pickle {
                    values: machine.values,
                    root,
                });
            }
        }
    }

    /// The value that the pickle stands for.
    pub(crate) fn root(&self) -> &Value {
        &self.values[self.root]
    }

    /// The value of a key, if the root is a dict; the last one if the key is repeated, as in Python.
    pub(crate) fn entry(&self, key: &str) -> Option<&Value> {
        let Value::Dict(entries) = self.root() else {
            return None;
        };
        let called = |id: Id| self.values[id].text() == Some(key);
        let found = entries.iter().rev().find(|(id, _)| called(*id))?;
        Some(&self.values[found.1])
    }

    /// The integers of a list or tuple; `None` where it is another value, or has others in it.
    pub(crate) fn integers(&self, value: &Value) -> Option<Vec<i64>> {
        let (Value::List(items) | Value::Tuple(items)) = value else {
            return None;
        };
        let integer = |&id: &Id| match self.values[id] {
            Value::Int(value) => Some(value),
            _ => None,
        };
        items.iter().map(integer).collect()
    }
}

/// The stack machine.
struct Machine<'a> {
    /// Bytes of the whole pickle.
    length: usize,
    rest: &'a [u8],
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Runs one instruction; gives the result if it is the last.
    fn step(&mut self) -> Result<Option<Id>, String> {
        if self.values.len() > MAX_VALUES {
            return Err(format!("has more than {MAX_VALUES} values"));
        }
        match self.byte()? {
            0x80 => match self.byte()? {
                2..=5 => {}
                version => return Err(format!("has protocol {version}; 2 to 5 are known")),
            },
            // The length of a frame, which only readers of streams need.
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'K' => {
                let value = self.byte()?;
                self.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            0x8a => {
                let value = self.long()?;
                self.push(Value::Int(value));
            }
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Value::Float(value));
            }
            0x8c => {
                let length = self.byte()?.into();
                self.text(length)?;
            }
            b'X' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                self.text(length)?;
            }
            // Strings of Python 2 and bytes of Python 3, short and long.
            b'U' | b'C' => {
                let length = self.byte()?.into();
                self.bytes(length)?;
            }
            b'T' | b'B' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                self.bytes(length)?;
            }
            0x8e => {
                let length = u64::from_le_bytes(self.array()?);
                self.bytes(usize::try_from(length).map_err(|_| "is cut short")?)?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b')' => self.push(Value::Tuple(Vec::new())),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_mark()?;
                self.push(Value::Tuple(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }
            b'q' => {
                let place = self.byte()?.into();
                self.remember(place)?;
            }
            b'r' => {
                let place = u32::from_le_bytes(self.array()?);
                self.remember(place)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let place = self.byte()?.into();
                self.recall(place)?;
            }
            b'j' => {
                let place = u32::from_le_bytes(self.array()?);
                self.recall(place)?;
            }
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(module, name)?;
            }
            0x93 => {
                let name = self.pop_text()?;
                let module = self.pop_text()?;
                self.global(&module, &name)?;
            }
            b'Q' => self.storage()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            other => {
                return Err(format!(
                    "has instruction 0x{other:02x}, which is not written for tensors or arrays in a dict"
                ));
            }
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("is cut short")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("N bytes were taken"))
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    /// The bytes before the next end of line.
    fn line(&mut self) -> Result<&'a str, String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or("is cut short")?)?;
        self.byte()?;
        std::str::from_utf8(line).map_err(|_| "has a name that is not text".into())
    }

    /// An integer whose length precedes it, little-endian, in two's complement.
    fn long(&mut self) -> Result<i64, String> {
        let length = self.byte()?.into();
        let bytes = self.take(length)?;
        if length > 8 {
            return Err(format!("has an integer of {length} bytes; 8 are known"));
        }
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut word = [if negative { 0xff } else { 0 }; 8];
        word[..length].copy_from_slice(bytes);
        Ok(i64::from_le_bytes(word))
    }

    fn text(&mut self, length: usize) -> Result<(), String> {
        let text = std::str::from_utf8(self.take(length)?);
        let text = text.map_err(|_| "has a string that is not UTF-8")?;
        self.push(Value::Text(text.into()));
        Ok(())
    }

    fn bytes(&mut self, length: usize) -> Result<(), String> {
        let start = self.length - self.rest.len();
        let bytes = self.take(length)?;
        let short = bytes.len() <= usize::from(u8::MAX);
        let text = std::str::from_utf8(bytes).ok().filter(|_| short);
        let text = text.map(str::to_owned);
        self.push(Value::Bytes {
            start,
            length,
            text,
        });
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    /// Removes and gives the top of the stack, which must be above the last mark.
    fn pop(&mut self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => self.stack.pop().ok_or_else(exhausted),
            false => Err(exhausted()),
        }
    }

    /// Removes the last mark, and removes and gives all values above it.
    fn pop_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or_else(exhausted)?;
        Ok(self.stack.split_off(mark))
    }

    fn pop_text(&mut self) -> Result<String, String> {
        let id = self.pop()?;
        match &self.values[id] {
            Value::Text(text) => Ok(text.clone()),
            _ => Err("has a name that is not text".into()),
        }
    }

    /// The top of the stack, without removing it.
    fn top(&mut self) -> Result<Id, String> {
        let id = self.pop()?;
        self.stack.push(id);
        Ok(id)
    }

    fn tuple(&mut self, length: usize) -> Result<(), String> {
        let mut items = vec![0; length];
        for item in items.iter_mut().rev() {
            *item = self.pop()?;
        }
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), String> {
        let id = self.top()?;
        match &mut self.values[id] {
            Value::List(list) => list.extend(items),
            _ => return Err("appends to what is no list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), String> {
        let id = self.top()?;
        let (pairs, odd) = items.as_chunks::<2>();
        match &mut self.values[id] {
            Value::Dict(dict) if odd.is_empty() => dict.extend(pairs.iter().map(|&[k, v]| (k, v))),
            _ => return Err("sets items of what is no dict".into()),
        }
        Ok(())
    }

    fn remember(&mut self, place: u32) -> Result<(), String> {
        let id = self.top()?;
        self.memo.insert(place, id);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), String> {
        let known = self.memo.get(&place);
        let id = *known.ok_or_else(|| format!("recalls value {place}, which it never had"))?;
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let value = match (module, name) {
            ("torch._utils", "_rebuild_tensor_v2") => Some(Value::RebuildTensor),
            ("collections", "OrderedDict") => Some(Value::OrderedDict),
            ("torch", class) => dtype_of_storage(class).map(Value::StorageClass),
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
                Some(Value::Reconstruct)
            }
            ("numpy", "ndarray") => Some(Value::ArrayClass),
            ("numpy", "dtype") => Some(Value::DtypeClass),
            _ => None,
        };
        self.push(value.ok_or_else(|| {
            format!(
                "names {:?}, which is neither a plain value nor a tensor; nothing in it was run: \
                 save a dict of plain tensors",
                shortened(&format!("{module}.{name}"))
            )
        })?);
        Ok(())
    }

    /// A reference to data outside the pickle: `("storage", class, name, device, elements)`.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let parts = self.items(id).unwrap_or_default();
        let parts: Vec<&Value> = parts.iter().map(|&part| &self.values[part]).collect();
        let storage = match parts.as_slice() {
            [
                Value::Text(kind),
                Value::StorageClass(dtype),
                Value::Text(name),
                Value::Text(_),
                Value::Int(elements),
            ] if kind == "storage" => usize::try_from(*elements).ok().map(|elements| {
                let (dtype, name) = (*dtype, name.clone());
                Value::Storage {
                    dtype,
                    name,
                    elements,
                }
            }),
            _ => None,
        };
        self.push(storage.ok_or("refers to something that is no tensor's storage")?);
        Ok(())
    }

    /// Calls one of the functions that are allowed.
    fn reduce(&mut self) -> Result<(), String> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let arguments = self.items(arguments).unwrap_or_default();
        let value = match self.values[function] {
            Value::OrderedDict if arguments.is_empty() => Value::Dict(Vec::new()),
            Value::OrderedDict => return Err("has an OrderedDict with arguments".into()),
            Value::RebuildTensor => Value::Tensor(
                self.tensor(arguments)
                    .ok_or("has a tensor whose description cannot be read")?,
            ),
            // The arguments make an empty array, which gets everything when it is built.
            Value::Reconstruct => Value::Array(None),
            Value::DtypeClass => {
                let name = arguments.first().and_then(|&id| self.values[id].text());
                let name = name.ok_or("has an array whose type cannot be read")?;
                let dtype = numpy_dtype(name).ok_or_else(|| {
                    format!(
                        "has an array of type {:?}, which is no number",
                        shortened(name)
                    )
                })?;
                Value::Dtype(dtype, false)
            }
            _ => return Err("calls what is no function".into()),
        };
        self.push(value);
        Ok(())
    }

    /// Gives an array of NumPy its elements, or a type of elements its order of bytes.
    fn build(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        let id = self.top()?;
        let state = self.items(state).unwrap_or_default();
        let built = match (&self.values[id], state) {
            (Value::Dtype(dtype, _), &[_, order, ..]) => {
                let big_endian = self.values[order].text() == Some(">");
                Some(Value::Dtype(*dtype, big_endian))
            }
            (Value::Array(None), state) => self.numpy(state).map(|array| Value::Array(Some(array))),
            _ => None,
        };
        self.values[id] = built.ok_or("has an array whose description cannot be read")?;
        Ok(())
    }

    /// The array of `(version, shape, dtype, fortran_order, elements)`.
    fn numpy(&self, state: &[Id]) -> Option<Array> {
        let &[_, shape, dtype, fortran_order, elements] = state else {
            return None;
        };
        let Value::Dtype(dtype, big_endian) = self.values[dtype] else {
            return None;
        };
        let fortran_order = match self.values[fortran_order] {
            Value::Bool(value) => value,
            Value::Int(value) => value != 0,
            _ => return None,
        };
        let Value::Bytes { start, length, .. } = self.values[elements] else {
            return None;
        };
        Some(Array {
            dtype,
            big_endian,
            shape: self.sizes(shape)?,
            fortran_order,
            start,
            length,
        })
    }

    /// The tensor of `(storage, offset, shape, strides, requires_grad, hooks[, metadata])`.
    fn tensor(&self, arguments: &[Id]) -> Option<Tensor> {
        let &[storage, offset, shape, strides, ..] = arguments else {
            return None;
        };
        let Value::Storage {
            dtype,
            name,
            elements,
        } = &self.values[storage]
        else {
            return None;
        };
        let tensor = Tensor {
            dtype: *dtype,
            storage: name.clone(),
            storage_elements: *elements,
            offset: self.size(offset)?,
            shape: self.sizes(shape)?,
            strides: self.sizes(strides)?,
        };
        (tensor.shape.len() == tensor.strides.len()).then_some(tensor)
    }

    /// An integer that is a size.
    fn size(&self, id: Id) -> Option<usize> {
        match self.values[id] {
            Value::Int(value) => usize::try_from(value).ok(),
            _ => None,
        }
    }

    /// A tuple of sizes.
    fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        self.items(id)?.iter().map(|&id| self.size(id)).collect()
    }

    /// The items of a tuple.
    fn items(&self, id: Id) -> Option<&[Id]> {
        match &self.values[id] {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }
}

fn exhausted() -> String {
    "is damaged: an instruction lacks its values".into()
}

/// At most 80 characters of a text from a file.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}
