//! Reads pickles of tensors without running code.
//!
//! A pickle is a program for a small stack machine, and Python's machine runs any function that the pickle
//! names. This one knows only the instructions that `torch.save` writes for dicts, lists, tuples, numbers,
//! strings and tensors, and refuses a file at the first other name.
//!
//! Values are in one list and refer to each other by index. Depth, sharing and cycles therefore need no
//! recursion, and no instruction allocates more memory than its own length.

use std::collections::HashMap;

use super::stored::Dtype;

/// The longest pickle that is read, in bytes; that of a dict of tensors is less than a kilobyte.
pub(crate) const MAX_BYTES: u64 = 16 << 20;

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

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
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
        let called = |id: Id| matches!(&self.values[id], Value::Text(text) if text == key);
        let found = entries.iter().rev().find(|(id, _)| called(*id))?;
        Some(&self.values[found.1])
    }
}

/// The stack machine.
struct Machine<'a> {
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
            other => {
                return Err(format!(
                    "has instruction 0x{other:02x}, which torch.save does not write for tensors in \
                     a dict"
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

    /// Calls one of the two functions that are allowed.
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
            _ => return Err("calls what is no function".into()),
        };
        self.push(value);
        Ok(())
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
        let size = |id: Id| match self.values[id] {
            Value::Int(value) => usize::try_from(value).ok(),
            _ => None,
        };
        let sizes =
            |id| -> Option<Vec<usize>> { self.items(id)?.iter().map(|&id| size(id)).collect() };
        let tensor = Tensor {
            dtype: *dtype,
            storage: name.clone(),
            storage_elements: *elements,
            offset: size(offset)?,
            shape: sizes(shape)?,
            strides: sizes(strides)?,
        };
        (tensor.shape.len() == tensor.strides.len()).then_some(tensor)
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
