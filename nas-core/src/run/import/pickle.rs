//! A reader of pickles that runs nothing. A pickle is a program for a stack machine; Python's own reader imports and calls
//! whatever the program names. This one knows a few names that describe tensors ([`Global`]), refuses every other one by its
//! name, and only ever builds plain data.
//!
//! Values lie in one list and point at each other by index: neither a cycle nor a million nested tuples can exhaust the stack
//! when they are dropped, and what a pickle takes is bounded by a small multiple of its own length.

use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use tch::Kind;

/// Index of a value in [`Pickle::values`].
pub type Id = usize;

/// What a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`: a view of a storage.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`: a tensor that is trained.
    RebuildParameter,
    /// `torch.Size`: a tuple.
    Size,
    /// `torch.FloatStorage` and its like: the type of the numbers of a storage.
    Storage(Kind),
}

impl Global {
    fn from_name(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "Size") => Self::Size,
            ("torch" | "torch.cuda", storage) => Self::Storage(match storage {
                "FloatStorage" => Kind::Float,
                "DoubleStorage" => Kind::Double,
                "HalfStorage" => Kind::Half,
                "BFloat16Storage" => Kind::BFloat16,
                "LongStorage" => Kind::Int64,
                "IntStorage" => Kind::Int,
                "ShortStorage" => Kind::Int16,
                "CharStorage" => Kind::Int8,
                "ByteStorage" => Kind::Uint8,
                "BoolStorage" => Kind::Bool,
                _ => return None,
            }),
            _ => return None,
        })
    }
}

/// Numbers outside of the pickle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageRef {
    /// Their type.
    pub kind: Kind,
    /// Which storage of the file.
    pub key: Rc<str>,
    /// How many numbers the pickle says it has.
    pub numel: usize,
}

/// A view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRef {
    /// The storage.
    pub storage: StorageRef,
    /// Index of its first number there.
    pub offset: i64,
    /// Shape.
    pub size: Vec<i64>,
    /// Steps in the storage along each dimension.
    pub stride: Vec<i64>,
}

/// A value of a pickle.
#[derive(Clone, Debug)]
pub enum Value {
    /// `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer of more than 64 bits, as little-endian two's complement.
    BigInt(Vec<u8>),
    /// A number.
    Float(f64),
    /// A text.
    Str(Rc<str>),
    /// Bytes.
    Bytes,
    /// A list.
    List(Vec<Id>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A dictionary in the order of insertion; a later entry of the same key counts.
    Dict(Vec<(Id, Id)>),
    /// An allowed name.
    Global(Global),
    /// A storage.
    Storage(StorageRef),
    /// A tensor.
    Tensor(Rc<TensorRef>),
}

impl Value {
    /// What the value is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a truth value",
            Self::Int(_) | Self::BigInt(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Str(_) => "a text",
            Self::Bytes => "bytes",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Dict(_) => "a dictionary",
            Self::Global(_) => "a name",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

/// What a pickle held.
#[derive(Debug)]
pub struct Pickle {
    /// All values that were ever made.
    pub values: Vec<Value>,
    /// The result.
    pub root: Id,
    /// Bytes that were read.
    pub length: usize,
}

/// Reads the pickle at the start of `bytes`. What is damaged, not known or not allowed is an error that says where it stands.
pub fn read(bytes: &[u8]) -> Result<Pickle> {
    let mut machine = Machine {
        bytes,
        at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        copied: 0,
    };
    let root = loop {
        let start = machine.at;
        let step = machine.step();
        if let Some(root) = step.with_context(|| format!("pickle, byte {start}"))? {
            break root;
        }
    };
    Ok(Pickle { values: machine.values, root, length: machine.at })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Entries that were copied from lists to dictionaries.
    copied: usize,
}

impl<'a> Machine<'a> {
    /// Runs one instruction; the result when it was the last one.
    fn step(&mut self) -> Result<Option<Id>> {
        let opcode = self.take(1)?[0];
        match opcode {
            b'.' => return Ok(Some(self.pop()?)),
            0x80 => {
                let version = self.take(1)?[0];
                ensure!(version <= 5, "protocol {version}: expected at most 5");
            }
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.pop()?;
                self.stack.extend([top, top]);
            }
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' | b'K' | b'M' | 0x8a | 0x8b | b'G' => self.number(opcode)?,
            b'X' | 0x8c | 0x8d | b'U' | b'T' => self.text(opcode)?,
            b'C' | b'B' | 0x8e => {
                let length = self.length([b'C', b'B', 0x8e], opcode)?;
                self.take(length)?;
                self.push(Value::Bytes);
            }
            b']' => self.push(Value::List(Vec::new())),
            b')' => self.push(Value::Tuple(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b'l' | b't' | b'd' | 0x85..=0x87 => self.collect(opcode)?,
            b'a' | b'e' | b's' | b'u' => self.extend(opcode)?,
            b'c' | 0x93 => self.name(opcode)?,
            b'R' | 0x81 => self.call()?,
            b'b' => self.set_state()?,
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.remember_or_recall(opcode)?,
            b'Q' => self.storage()?,
            other => bail!("instruction {other:#04x} is not one that tensors need"),
        }
        Ok(None)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        ensure!(n <= rest.len(), "the file ends early: {n} bytes expected, {} are left", rest.len());
        self.at += n;
        Ok(&rest[..n])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().take(1000).position(|byte| *byte == b'\n').context("a name of over 1000 bytes")?;
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).context("a name that is not UTF-8")
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        ensure!(self.stack.len() > floor, "the stack is empty");
        self.stack.pop().context("the stack is empty")
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().context("no mark is open")?;
        Ok(self.stack.split_off(mark))
    }

    /// A length before text or bytes, of one, four or eight bytes by instruction.
    fn length(&mut self, [one, four, eight]: [u8; 3], opcode: u8) -> Result<usize> {
        let length = match opcode {
            op if op == one => u64::from(self.take(1)?[0]),
            op if op == four => u64::from(u32::from_le_bytes(self.array()?)),
            op if op == eight => u64::from_le_bytes(self.array()?),
            _ => bail!("no length"),
        };
        usize::try_from(length).context("a length beyond all memory")
    }

    fn number(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'K' => Value::Int(self.take(1)?[0].into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            b'G' => Value::Float(f64::from_be_bytes(self.array()?)),
            _ => {
                let length =
                    if opcode == 0x8a { self.take(1)?[0].into() } else { u32::from_le_bytes(self.array()?) as usize };
                let bytes = self.take(length)?;
                if length > 8 {
                    Value::BigInt(bytes.to_vec())
                } else {
                    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
                    let mut filled = [if negative { 0xff } else { 0 }; 8];
                    filled[..length].copy_from_slice(bytes);
                    Value::Int(i64::from_le_bytes(filled))
                }
            }
        };
        self.push(value);
        Ok(())
    }

    /// Texts; Python 2 wrote its own (`U`, `T`) without an encoding.
    fn text(&mut self, opcode: u8) -> Result<()> {
        let length = match opcode {
            b'U' | b'T' => self.length([b'U', b'T', 0], opcode)?,
            _ => self.length([0x8c, b'X', 0x8d], opcode)?,
        };
        let text = std::str::from_utf8(self.take(length)?).context("a text that is not UTF-8")?;
        self.push(Value::Str(text.into()));
        Ok(())
    }

    /// A list, tuple or dictionary of what lies above the mark, or a tuple of the last one to three values.
    fn collect(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b'l' => Value::List(self.pop_mark()?),
            b't' => Value::Tuple(self.pop_mark()?),
            b'd' => Value::Dict(pairs(&self.pop_mark()?)?),
            _ => {
                let mut items = (0..opcode - 0x84).map(|_| self.pop()).collect::<Result<Vec<Id>>>()?;
                items.reverse();
                Value::Tuple(items)
            }
        };
        self.push(value);
        Ok(())
    }

    /// Adds one value or all above the mark to the list or dictionary below.
    fn extend(&mut self, opcode: u8) -> Result<()> {
        let items = match opcode {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_mark()?,
        };
        let target = *self.stack.last().context("the stack is empty")?;
        match (&mut self.values[target], opcode) {
            (Value::List(list), b'a' | b'e') => list.extend(items),
            (Value::Dict(entries), b's' | b'u') => entries.extend(pairs(&items)?),
            (other, _) => bail!("{} cannot take further entries", other.kind()),
        }
        Ok(())
    }

    fn name(&mut self, opcode: u8) -> Result<()> {
        let (module, name): (Rc<str>, Rc<str>) = match opcode {
            b'c' => (self.line()?.into(), self.line()?.into()),
            _ => {
                let [name, module] = [self.pop()?, self.pop()?].map(|id| self.values[id].clone());
                match (module, name) {
                    (Value::Str(module), Value::Str(name)) => (module, name),
                    _ => bail!("a name that is no text"),
                }
            }
        };
        let global = Global::from_name(&module, &name).with_context(|| refusal(&module, &name))?;
        self.push(Value::Global(global));
        Ok(())
    }

    /// "Calls" an allowed name, which means that the described tensor is written down.
    fn call(&mut self) -> Result<()> {
        let (args, function) = (self.pop()?, self.pop()?);
        let Value::Global(global) = self.values[function] else {
            bail!("a call of {}, expected an allowed name", self.values[function].kind());
        };
        let Value::Tuple(ids) = &self.values[args] else {
            bail!("a call with {}, expected a tuple", self.values[args].kind());
        };
        // Of so many at most the first few count.
        let ids = &ids[..ids.len().min(8)];
        let mut copied = self.copied;
        let args: Vec<&Value> = ids.iter().map(|id| &self.values[*id]).collect();
        let value = match (global, args.as_slice()) {
            (Global::OrderedDict, []) => Value::Dict(Vec::new()),
            (Global::OrderedDict, [Value::List(items)]) => {
                copied += items.len();
                ensure!(copied <= self.bytes.len(), "more entries than the file can hold");
                Value::Dict(self.entries(items)?)
            }
            // Already there: no copy, of which a short pickle could ask for many.
            (Global::Size, [Value::Tuple(_)]) | (Global::RebuildParameter, [Value::Tensor(_), ..]) => {
                let same = ids[0];
                self.stack.push(same);
                return Ok(());
            }
            (Global::RebuildTensor, [Value::Storage(storage), Value::Int(offset), size, stride, ..]) => {
                let (size, stride) = (self.integers(size)?, self.integers(stride)?);
                Value::Tensor(Rc::new(TensorRef { storage: storage.clone(), offset: *offset, size, stride }))
            }
            _ => bail!("{global:?} with other arguments than torch writes"),
        };
        self.copied = copied;
        self.push(value);
        Ok(())
    }

    /// Key and value of each of a list of pairs.
    fn entries(&self, items: &[Id]) -> Result<Vec<(Id, Id)>> {
        let entry = |id: &Id| match &self.values[*id] {
            Value::Tuple(pair) | Value::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            other => bail!("an ordered dictionary of {}, expected pairs", other.kind()),
        };
        items.iter().map(entry).collect()
    }

    fn integers(&self, tuple: &Value) -> Result<Vec<i64>> {
        /// More dimensions than any layer's weights have.
        const MAX_DIMS: usize = 16;
        let Value::Tuple(items) = tuple else { bail!("a shape that is {}", tuple.kind()) };
        ensure!(items.len() <= MAX_DIMS, "a tensor of {} dimensions, expected at most {MAX_DIMS}", items.len());
        let integer = |id: &Id| match &self.values[*id] {
            Value::Int(n) => Ok(*n),
            other => bail!("a side that is {}", other.kind()),
        };
        items.iter().map(integer).collect()
    }

    /// State of an object: only an ordered dictionary has one, which holds the versions of its modules.
    fn set_state(&mut self) -> Result<()> {
        self.pop()?;
        let target = *self.stack.last().context("the stack is empty")?;
        match &self.values[target] {
            Value::Dict(_) => Ok(()),
            other => bail!("a state for {}, expected an ordered dictionary", other.kind()),
        }
    }

    fn remember_or_recall(&mut self, opcode: u8) -> Result<()> {
        let key = match opcode {
            b'q' | b'h' => u32::from(self.take(1)?[0]),
            b'r' | b'j' => u32::from_le_bytes(self.array()?),
            _ => u32::try_from(self.memo.len())?,
        };
        if matches!(opcode, b'h' | b'j') {
            let id = self.memo.get(&key).with_context(|| format!("value {key} was never remembered"))?;
            self.stack.push(*id);
        } else {
            let top = *self.stack.last().context("the stack is empty")?;
            self.memo.insert(key, top);
        }
        Ok(())
    }

    /// `("storage", type, key, location, numel)`, and in the old format a part of another storage, which nobody writes.
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let Value::Tuple(parts) = &self.values[id] else { bail!("a storage that is {}", self.values[id].kind()) };
        let parts: Vec<&Value> = parts.iter().map(|id| &self.values[*id]).collect();
        let value = match parts.as_slice() {
            [
                Value::Str(tag),
                Value::Global(Global::Storage(kind)),
                Value::Str(key),
                Value::Str(_),
                Value::Int(numel),
            ]
            | [
                Value::Str(tag),
                Value::Global(Global::Storage(kind)),
                Value::Str(key),
                Value::Str(_),
                Value::Int(numel),
                Value::None,
            ] if &**tag == "storage" => {
                let numel = usize::try_from(*numel).ok().with_context(|| format!("a storage of {numel} numbers"))?;
                Value::Storage(StorageRef { kind: *kind, key: key.clone(), numel })
            }
            _ => bail!("a storage that is described in another way than torch does"),
        };
        self.push(value);
        Ok(())
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>> {
    let (pairs, rest) = items.as_chunks::<2>();
    ensure!(rest.is_empty(), "a key without a value");
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}

fn refusal(module: &str, name: &str) -> String {
    format!(
        "refused: the file names {module:?} {name:?}, which is no part of a tensor; nothing of it was run. Save the \
         `state_dict()` alone, without optimizer, arguments or the model object"
    )
}
