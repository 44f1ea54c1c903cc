//! A kernel's instructions in the form that warps run: registers, constants and what a thread knows of its
//! place all have a slot in one table, and labels are numbers of instructions.

use std::collections::HashMap;

use super::arithmetic::{Binary, Comparison, Ternary, Unary};
use super::text::{Entry, Operand};

/// A place in a warp's table, for a value of each lane.
pub(super) type Slot = u16;

/// What a thread knows of its place in the launch, in the order of the slots.
pub(super) const PLACE: [&str; 8] = [
    "%tid.x",
    "%ntid.x",
    "%ctaid.x",
    "%ctaid.y",
    "%ctaid.z",
    "%nctaid.x",
    "%nctaid.y",
    "%nctaid.z",
];

pub(super) struct Program {
    pub parameter_bytes: usize,
    /// The largest block.
    pub threads: u32,
    pub code: Vec<Instruction>,
    /// The first slot of [`PLACE`]; registers are before it.
    pub place: usize,
    /// What is in the slots behind that, in all lanes.
    pub constants: Vec<u64>,
}

pub(super) struct Instruction {
    /// Of the text.
    pub line: u32,
    /// It runs where this predicate has this value.
    pub guard: Option<(Slot, bool)>,
    pub operation: Operation,
}

/// Operands are slots, the one that is written first.
pub(super) enum Operation {
    Unary(Unary, [Slot; 2]),
    Binary(Binary, [Slot; 3]),
    Ternary(Ternary, [Slot; 4]),
    Compare(Comparison, [Slot; 3]),
    InsertBits([Slot; 5]),
    /// 64 bits as two words, the lower first.
    Split {
        to: [Slot; 2],
        from: Slot,
    },
    Join {
        to: Slot,
        from: [Slot; 2],
    },
    Load {
        space: Space,
        to: Vector,
        from: Address,
        /// A bit for each byte that is used.
        used: u32,
    },
    Store {
        space: Space,
        to: Address,
        from: Vector,
    },
    Branch(usize),
    Exit,
    /// Waits for the block's threads.
    Barrier,
    /// Exchanges values with the lane whose number differs in some bits.
    Shuffle {
        to: Slot,
        /// Whether that lane is one of the group.
        found: Option<Slot>,
        value: Slot,
        differs: Slot,
        clamp: Slot,
        members: Slot,
    },
    MultiplyMatrices {
        to: [Slot; 4],
        left: [Slot; 4],
        right: [Slot; 2],
        sum: [Slot; 4],
    },
    LoadMatrices {
        to: [Slot; 4],
        row: Address,
        transposed: bool,
    },
    /// Starts to copy 16 bytes from device memory to shared memory, or zeros if there are none to copy.
    Copy {
        to: Address,
        from: Address,
        bytes: Slot,
    },
    /// Closes a group of copies.
    Commit,
    /// Waits until at most so many groups are under way.
    Wait(u32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    Global,
    Shared,
    Parameter,
}

#[derive(Clone, Copy)]
pub(super) struct Address {
    pub base: Slot,
    pub offset: i64,
}

/// Registers that are loaded or stored at once.
#[derive(Clone, Copy)]
pub(super) struct Vector {
    slots: [Slot; 4],
    count: u8,
    /// Bytes of each: 4 or 8.
    pub bytes: u8,
}

impl Vector {
    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots[..self.count.into()]
    }

    /// Of all.
    pub(super) fn total(&self) -> usize {
        usize::from(self.count) * usize::from(self.bytes)
    }
}

impl Program {
    /// # Errors
    /// An instruction that is not known, with kernel and line.
    pub(super) fn new(entry: &Entry<'_>) -> Result<Self, String> {
        let mut slots = Slots::new(entry)?;
        let mut code = vec![];
        for instruction in &entry.code {
            let guard = match instruction.guard {
                None => Ok(None),
                Some(guard) => slots
                    .register(guard.predicate)
                    .map(|slot| Some((slot, guard.holds))),
            };
            let used = instruction.used_bytes.unwrap_or(u32::MAX);
            let decode = |guard: Option<(Slot, bool)>| {
                let operation = slots.operation(instruction.opcode, &instruction.operands, used)?;
                match guard.is_some() && operation.is_collective() {
                    true => Err("a condition is not understood".to_owned()),
                    false => Ok(Instruction {
                        line: instruction.line,
                        guard,
                        operation,
                    }),
                }
            };
            let decoded = guard.and_then(decode).map_err(|why| {
                format!(
                    "{}, line {}: {}: {why}",
                    entry.name, instruction.line, instruction.opcode
                )
            })?;
            code.push(decoded);
        }
        // For labels at the end.
        code.push(Instruction {
            line: code.last().map_or(0, |last: &Instruction| last.line),
            guard: None,
            operation: Operation::Exit,
        });
        Ok(Program {
            parameter_bytes: entry.parameter_bytes,
            threads: entry.threads,
            code,
            place: slots.place,
            constants: slots.constants,
        })
    }

    /// Slots of a warp.
    pub(super) fn slots(&self) -> usize {
        self.place + PLACE.len() + self.constants.len()
    }
}

impl Operation {
    /// Whether all lanes of a warp must come to it together.
    pub(super) fn is_collective(&self) -> bool {
        matches!(
            self,
            Operation::Barrier
                | Operation::Shuffle { .. }
                | Operation::MultiplyMatrices { .. }
                | Operation::LoadMatrices { .. }
        )
    }
}

/// Which slot an operand has.
struct Slots<'a> {
    entry: &'a Entry<'a>,
    /// First slot and count of the registers with a prefix.
    registers: HashMap<&'a str, (usize, u32)>,
    place: usize,
    constants: Vec<u64>,
    known: HashMap<u64, Slot>,
}

impl<'a> Slots<'a> {
    fn new(entry: &'a Entry<'a>) -> Result<Self, String> {
        let mut place = 0;
        let mut registers = HashMap::new();
        for &(prefix, count) in &entry.registers {
            registers.insert(prefix, (place, count));
            place += count as usize;
        }
        match place < usize::from(Slot::MAX) {
            true => Ok(Slots {
                entry,
                registers,
                place,
                constants: vec![],
                known: HashMap::new(),
            }),
            false => Err(format!("{}: {place} registers are too many", entry.name)),
        }
    }

    fn register(&self, name: &str) -> Result<Slot, String> {
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = name[prefix.len()..].parse::<u32>();
        match (self.registers.get(prefix), number) {
            (Some(&(first, count)), Ok(number)) if number < count => {
                Ok((first + number as usize) as Slot)
            }
            _ => Err(format!("{name} is no register")),
        }
    }

    fn constant(&mut self, bits: u64) -> Result<Slot, String> {
        if let Some(&slot) = self.known.get(&bits) {
            return Ok(slot);
        }
        let slot = self.place + PLACE.len() + self.constants.len();
        let slot = Slot::try_from(slot).map_err(|_| "there are too many constants".to_owned())?;
        self.constants.push(bits);
        self.known.insert(bits, slot);
        Ok(slot)
    }

    /// A register, or anything else that has a value.
    fn value(&mut self, operand: &Operand<'_>) -> Result<Slot, String> {
        match operand {
            Operand::Number(bits) => self.constant(*bits),
            Operand::Name(name) => self.named(name),
            other => Err(format!("{other:?} is no value")),
        }
    }

    fn named(&mut self, name: &str) -> Result<Slot, String> {
        if let Some(index) = PLACE.iter().position(|known| *known == name) {
            return Ok((self.place + index) as Slot);
        }
        // Addresses of parameters and of shared memory count from their start.
        let parameter = name.strip_prefix(self.entry.name);
        if name == "block_memory" || parameter == Some("_param_0") {
            return self.constant(0);
        }
        self.register(name)
    }

    fn target(&self, operand: &Operand<'_>) -> Result<Slot, String> {
        match operand {
            Operand::Name(name) => self.register(name),
            other => Err(format!("{other:?} is no register")),
        }
    }

    fn address(&mut self, operand: &Operand<'_>) -> Result<Address, String> {
        match *operand {
            Operand::Address { base, offset } => Ok(Address {
                base: self.named(base)?,
                offset,
            }),
            ref other => Err(format!("{other:?} is no address")),
        }
    }

    fn registers<const N: usize>(&self, operand: &Operand<'_>) -> Result<[Slot; N], String> {
        let Operand::Vector(names) = operand else {
            return Err(format!("{operand:?} is no vector"));
        };
        let slots = names.iter().map(|name| self.register(name));
        let slots: Vec<Slot> = slots.collect::<Result<_, _>>()?;
        slots
            .try_into()
            .map_err(|_| format!("{operand:?} does not have {N} registers"))
    }

    /// What `ld` and `st` move, of an opcode without its beginning, such as `global.v4.f32`: registers, or one
    /// operand of which `single` finds the slot.
    fn vector(
        &mut self,
        form: &str,
        operand: &Operand<'_>,
        single: fn(&mut Self, &Operand<'_>) -> Result<Slot, String>,
    ) -> Result<(Space, Vector), String> {
        let mut parts: Vec<&str> = form.split('.').collect();
        let space = match parts.remove(0) {
            "global" => Space::Global,
            "shared" => Space::Shared,
            "param" => Space::Parameter,
            _ => return Err("this memory is not known".to_owned()),
        };
        // A hint: the caches need not be coherent.
        if space == Space::Global && parts.first() == Some(&"nc") {
            parts.remove(0);
        }
        let count = match parts[..] {
            [_] => 1,
            ["v2", _] => 2,
            ["v4", _] => 4,
            _ => return Err("this form is not known".to_owned()),
        };
        let bytes = match parts.last() {
            Some(&("b32" | "u32" | "s32" | "f32")) => 4,
            Some(&("b64" | "u64" | "s64" | "f64")) => 8,
            _ => return Err("elements have 4 or 8 bytes".to_owned()),
        };
        let mut slots = [0; 4];
        match count {
            1 => slots[0] = single(self, operand)?,
            2 => slots[..2].copy_from_slice(&self.registers::<2>(operand)?),
            _ => slots = self.registers::<4>(operand)?,
        }
        let vector = Vector {
            slots,
            count,
            bytes,
        };
        match vector.total() <= 16 {
            true => Ok((space, vector)),
            false => Err("more than 16 bytes at once".to_owned()),
        }
    }

    fn operation(
        &mut self,
        opcode: &str,
        operands: &[Operand<'_>],
        used: u32,
    ) -> Result<Operation, String> {
        let unknown = || Err("this instruction is not known".to_owned());
        Ok(match (opcode, operands) {
            ("ret" | "exit", []) => Operation::Exit,
            ("bra" | "bra.uni", [Operand::Name(label)]) => match self.entry.labels.get(label) {
                Some(&target) => Operation::Branch(target),
                None => return Err(format!("{label} is no label")),
            },
            ("bar.sync", [Operand::Number(0)]) => Operation::Barrier,
            ("shfl.sync.bfly.b32", [to, value, differs, clamp, members]) => {
                let (to, found) = match *to {
                    Operand::Pair(to, found) => (to, Some(self.register(found)?)),
                    Operand::Name(to) => (to, None),
                    _ => return unknown(),
                };
                Operation::Shuffle {
                    to: self.register(to)?,
                    found,
                    value: self.value(value)?,
                    differs: self.value(differs)?,
                    clamp: self.value(clamp)?,
                    members: self.value(members)?,
                }
            }
            ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", [to, left, right, sum]) => {
                Operation::MultiplyMatrices {
                    to: self.registers(to)?,
                    left: self.registers(left)?,
                    right: self.registers(right)?,
                    sum: self.registers(sum)?,
                }
            }
            (
                "ldmatrix.sync.aligned.m8n8.x4.shared.b16"
                | "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16",
                [to, row],
            ) => Operation::LoadMatrices {
                to: self.registers(to)?,
                row: self.address(row)?,
                transposed: opcode.contains(".trans."),
            },
            ("cp.async.cg.shared.global", [to, from, Operand::Number(16), bytes]) => {
                Operation::Copy {
                    to: self.address(to)?,
                    from: self.address(from)?,
                    bytes: self.value(bytes)?,
                }
            }
            ("cp.async.commit_group", []) => Operation::Commit,
            ("cp.async.wait_group", [Operand::Number(groups)]) => Operation::Wait(*groups as u32),
            ("mov.b64", [to @ Operand::Vector(_), from]) => Operation::Split {
                to: self.registers(to)?,
                from: self.value(from)?,
            },
            ("mov.b64", [to, from @ Operand::Vector(_)]) => Operation::Join {
                to: self.target(to)?,
                from: self.registers(from)?,
            },
            ("bfi.b32", [to, bits, into, start, length]) => Operation::InsertBits([
                self.target(to)?,
                self.value(bits)?,
                self.value(into)?,
                self.value(start)?,
                self.value(length)?,
            ]),
            (_, [to, from]) if opcode.starts_with("ld.") => {
                let (space, vector) =
                    self.vector(&opcode[3..], to, |slots, to| slots.target(to))?;
                Operation::Load {
                    space,
                    to: vector,
                    from: self.address(from)?,
                    used,
                }
            }
            (_, [to, from]) if opcode.starts_with("st.") => {
                let (space, vector) = self.vector(&opcode[3..], from, Self::value)?;
                if space == Space::Parameter {
                    return unknown();
                }
                Operation::Store {
                    space,
                    to: self.address(to)?,
                    from: vector,
                }
            }
            (_, [to, a]) => match Unary::named(opcode) {
                Some(unary) => Operation::Unary(unary, [self.target(to)?, self.value(a)?]),
                None => return unknown(),
            },
            (_, [to, a, b]) => {
                let slots = [self.target(to)?, self.value(a)?, self.value(b)?];
                match (Binary::named(opcode), Comparison::named(opcode)) {
                    (Some(binary), _) => Operation::Binary(binary, slots),
                    (_, Some(comparison)) => Operation::Compare(comparison, slots),
                    _ => return unknown(),
                }
            }
            (_, [to, a, b, c]) => match Ternary::named(opcode) {
                Some(ternary) => Operation::Ternary(
                    ternary,
                    [
                        self.target(to)?,
                        self.value(a)?,
                        self.value(b)?,
                        self.value(c)?,
                    ],
                ),
                None => return unknown(),
            },
            _ => return unknown(),
        })
    }
}
