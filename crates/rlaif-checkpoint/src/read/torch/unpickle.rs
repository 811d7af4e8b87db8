//! An unpickler that can build tensors' descriptions and nothing else.
//!
//! It knows the opcodes that Python's pickler writes for a state dict and the few globals that
//! PyTorch needs to rebuild a tensor. No name is looked up anywhere, so nothing can be called; any
//! other global or opcode is an error. Opcodes: Python's `pickletools`; globals: `torch/_utils.py`.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use super::globals::Global;
use super::value::{Heap, PickledTensor, StorageRef, Unpickled, Value};
use crate::CheckpointError;

/// Well above the pickle of any model: a tensor takes some 150 bytes.
const PICKLE_LIMIT: u64 = 1 << 26;
/// Values in lists, tuples, dicts, memo and on the stack together; a tensor takes some 30.
const VALUE_LIMIT: usize = 1 << 22;
/// Dimensions of a tensor; PyTorch itself supports 64.
const RANK_LIMIT: usize = 64;
/// Length of the two lines of a global.
const LINE_LIMIT: usize = 1024;

/// Reads one pickle, up to and including its STOP, and leaves the reader behind it.
///
/// `position` counts the bytes, over several pickles if there are several in the file.
pub(super) fn unpickle(
    file: &Path,
    reader: &mut impl Read,
    position: &mut u64,
) -> Result<Unpickled, CheckpointError> {
    let begin = *position;
    let machine = Machine {
        file,
        reader,
        position,
        begin,
        heap: Heap::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        values: 0,
    };
    machine.run()
}

struct Machine<'a, R> {
    file: &'a Path,
    reader: &'a mut R,
    position: &'a mut u64,
    begin: u64,
    heap: Heap,
    stack: Vec<Value>,
    /// Stack heights at each open MARK.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// Values created so far.
    values: usize,
}

type Outcome<T> = Result<T, CheckpointError>;

impl<R: Read> Machine<'_, R> {
    fn run(mut self) -> Outcome<Unpickled> {
        loop {
            match self.byte()? {
                // PROTO, FRAME: framing carries no meaning for a reader of streams.
                0x80 => {
                    let protocol = self.byte()?;
                    if !(2..=5).contains(&protocol) {
                        return Err(self.bad("protocol 2 to 5", protocol.to_string()));
                    }
                }
                0x95 => drop(self.array::<8>()?),
                b'.' => {
                    let root = self.pop("a value before STOP")?;
                    return Ok(Unpickled { heap: self.heap, root });
                }
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'K' => {
                    let value = self.byte()?;
                    self.push(Value::Int(value.into()))?;
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.array()?);
                    self.push(Value::Int(value.into()))?;
                }
                b'J' => {
                    let value = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(value.into()))?;
                }
                0x8a => self.long()?,
                b'G' => {
                    self.array::<8>()?;
                    self.push(Value::Opaque("a float"))?;
                }
                // Text: short, with 4 and with 8 bytes of length; Python 2's byte strings as well.
                0x8c | b'U' => {
                    let length = self.byte()?.into();
                    self.text(length)?;
                }
                b'X' | b'T' => {
                    let length = u32::from_le_bytes(self.array()?).into();
                    self.text(length)?;
                }
                0x8d => {
                    let length = u64::from_le_bytes(self.array()?);
                    self.text(length)?;
                }
                b'C' => {
                    let length = self.byte()?.into();
                    self.opaque_bytes(length)?;
                }
                b'B' => {
                    let length = u32::from_le_bytes(self.array()?).into();
                    self.opaque_bytes(length)?;
                }
                // Containers.
                b'(' => {
                    self.count(1)?;
                    self.marks.push(self.stack.len());
                }
                b')' => self.tuple(0)?,
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b't' => {
                    let items = self.since_mark()?;
                    self.push_tuple(items)?;
                }
                b']' => {
                    self.heap.lists.push(Vec::new());
                    let list = self.heap.lists.len() - 1;
                    self.push(Value::List(list as u32))?;
                }
                b'a' => {
                    let item = self.pop("a list item")?;
                    self.append(&[item])?;
                }
                b'e' => {
                    let items = self.since_mark()?;
                    self.append(&items)?;
                }
                b'}' => self.push_dict()?,
                b's' => {
                    let value = self.pop("a dict value")?;
                    let key = self.pop("a dict key")?;
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.set_items(&items)?;
                }
                // The memo.
                b'q' => {
                    let index = self.byte()?.into();
                    self.memoize(index)?;
                }
                b'r' => {
                    let index = u32::from_le_bytes(self.array()?);
                    self.memoize(index)?;
                }
                0x94 => self.memoize(self.memo.len() as u32)?,
                b'h' => {
                    let index = self.byte()?.into();
                    self.recall(index)?;
                }
                b'j' => {
                    let index = u32::from_le_bytes(self.array()?);
                    self.recall(index)?;
                }
                // Globals and what is made with them.
                b'c' => {
                    let module = self.line()?;
                    let name = self.line()?;
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let name = self.pop_text("the name of a global")?;
                    let module = self.pop_text("the module of a global")?;
                    self.global(&module, &name)?;
                }
                // INST: an older way to call a global; none of its uses is needed.
                b'i' => {
                    let module = self.line()?;
                    let name = self.line()?;
                    return Err(self.forbidden(&module, &name));
                }
                b'R' => self.reduce()?,
                b'b' => self.build()?,
                b'Q' => self.persistent_id()?,
                opcode => {
                    let expected = "an opcode that torch.save writes";
                    return Err(self.bad(expected, format!("0x{opcode:02x}")));
                }
            }
        }
    }

    fn bad(&self, expected: &'static str, found: impl Into<String>) -> CheckpointError {
        let (file, offset) = (self.file.to_owned(), *self.position - self.begin);
        CheckpointError::Pickle { file, offset, expected, found: found.into() }
    }

    fn too_large(&self, what: &'static str, limit: u64) -> CheckpointError {
        CheckpointError::TooLarge { file: self.file.to_owned(), what, limit, found: limit + 1 }
    }

    fn forbidden(&self, module: &str, name: &str) -> CheckpointError {
        let global = format!("{module}.{name}");
        CheckpointError::ForbiddenGlobal { file: self.file.to_owned(), global }
    }

    // ── bytes ────────────────────────────────────────────────────────────────────────────

    fn fill(&mut self, buffer: &mut [u8]) -> Outcome<()> {
        self.reader.read_exact(buffer).map_err(|source| {
            if source.kind() == std::io::ErrorKind::UnexpectedEof {
                self.bad("more bytes", "the end")
            } else {
                CheckpointError::Read { path: self.file.to_owned(), source }
            }
        })?;
        *self.position += buffer.len() as u64;
        if *self.position - self.begin > PICKLE_LIMIT {
            return Err(self.too_large("bytes of pickle", PICKLE_LIMIT));
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn byte(&mut self) -> Outcome<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// `length` bytes; memory grows only as bytes arrive.
    fn bytes(&mut self, length: u64) -> Outcome<Vec<u8>> {
        if length > PICKLE_LIMIT {
            return Err(self.bad("a string within the pickle", format!("one of {length} bytes")));
        }
        let mut bytes = Vec::new();
        let mut left = length as usize;
        while left > 0 {
            let mut piece = [0; 4096];
            let piece = &mut piece[..left.min(4096)];
            self.fill(piece)?;
            bytes.extend_from_slice(piece);
            left -= piece.len();
        }
        Ok(bytes)
    }

    fn utf8(&self, bytes: Vec<u8>) -> Outcome<String> {
        String::from_utf8(bytes).map_err(|_| self.bad("UTF-8", "other bytes"))
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return self.utf8(line),
                _ if line.len() == LINE_LIMIT => {
                    return Err(self.bad("the name of a global", "a line without end"));
                }
                byte => line.push(byte),
            }
        }
    }

    // ── stack ────────────────────────────────────────────────────────────────────────────

    fn count(&mut self, values: usize) -> Outcome<()> {
        self.values += values;
        if self.values > VALUE_LIMIT {
            return Err(self.too_large("values in a pickle", VALUE_LIMIT as u64));
        }
        Ok(())
    }

    fn push(&mut self, value: Value) -> Outcome<()> {
        self.count(1)?;
        self.stack.push(value);
        Ok(())
    }

    /// The top of the stack, unless a MARK lies above it.
    fn pop(&mut self, expected: &'static str) -> Outcome<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.bad(expected, "an empty stack"));
        }
        self.stack.pop().ok_or_else(|| self.bad(expected, "an empty stack"))
    }

    fn top(&self, expected: &'static str) -> Outcome<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&value) if self.stack.len() > floor => Ok(value),
            _ => Err(self.bad(expected, "an empty stack")),
        }
    }

    fn since_mark(&mut self) -> Outcome<Vec<Value>> {
        let Some(mark) = self.marks.pop() else {
            return Err(self.bad("a MARK", "none"));
        };
        Ok(self.stack.split_off(mark))
    }

    fn pop_text(&mut self, expected: &'static str) -> Outcome<String> {
        match self.pop(expected)? {
            Value::Text(text) => Ok(self.heap.texts[text as usize].clone()),
            other => Err(self.bad(expected, other.describe())),
        }
    }

    fn memoize(&mut self, index: u32) -> Outcome<()> {
        let value = self.top("a value to memoize")?;
        self.count(1)?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Outcome<()> {
        let Some(&value) = self.memo.get(&index) else {
            return Err(self.bad("a memoized value", format!("none at {index}")));
        };
        self.push(value)
    }

    // ── values ───────────────────────────────────────────────────────────────────────────

    fn long(&mut self) -> Outcome<()> {
        let length = usize::from(self.byte()?);
        let bytes = self.bytes(length as u64)?;
        if length > 8 {
            return self.push(Value::Opaque("an integer beyond 64 bits"));
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut value = [if negative { 0xff } else { 0 }; 8];
        value[..length].copy_from_slice(&bytes);
        self.push(Value::Int(i64::from_le_bytes(value)))
    }

    fn text(&mut self, length: u64) -> Outcome<()> {
        let bytes = self.bytes(length)?;
        let text = self.utf8(bytes)?;
        self.heap.texts.push(text);
        self.push(Value::Text(self.heap.texts.len() as u32 - 1))
    }

    fn opaque_bytes(&mut self, length: u64) -> Outcome<()> {
        self.bytes(length)?;
        self.push(Value::Opaque("bytes"))
    }

    fn tuple(&mut self, length: usize) -> Outcome<()> {
        let mut items = Vec::with_capacity(length);
        for _ in 0..length {
            items.push(self.pop("a tuple item")?);
        }
        items.reverse();
        self.push_tuple(items)
    }

    fn push_tuple(&mut self, items: Vec<Value>) -> Outcome<()> {
        self.heap.tuples.push(items);
        self.push(Value::Tuple(self.heap.tuples.len() as u32 - 1))
    }

    fn push_dict(&mut self) -> Outcome<()> {
        self.heap.dicts.push(Vec::new());
        self.push(Value::Dict(self.heap.dicts.len() as u32 - 1))
    }

    fn append(&mut self, items: &[Value]) -> Outcome<()> {
        match self.top("a list")? {
            Value::List(list) => {
                self.heap.lists[list as usize].extend(items);
                Ok(())
            }
            other => Err(self.bad("a list", other.describe())),
        }
    }

    fn set_items(&mut self, items: &[Value]) -> Outcome<()> {
        let dict = match self.top("a dict")? {
            Value::Dict(dict) => dict,
            other => return Err(self.bad("a dict", other.describe())),
        };
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.bad("pairs of key and value", "a key alone"));
        }
        self.heap.dicts[dict as usize].extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    // ── tensors ──────────────────────────────────────────────────────────────────────────

    fn global(&mut self, module: &str, name: &str) -> Outcome<()> {
        match Global::find(module, name) {
            Some(global) => self.push(Value::Global(global)),
            None => Err(self.forbidden(module, name)),
        }
    }

    fn reduce(&mut self) -> Outcome<()> {
        let arguments = match self.pop("arguments")? {
            Value::Tuple(tuple) => tuple as usize,
            other => return Err(self.bad("a tuple of arguments", other.describe())),
        };
        let global = match self.pop("a global to call")? {
            Value::Global(global) => global,
            other => return Err(self.bad("a global to call", other.describe())),
        };
        let length = self.heap.tuples[arguments].len();
        match (global, length) {
            (Global::OrderedDict, 0) => self.push_dict(),
            (Global::RebuildTensor, 4)
            | (Global::RebuildTensorV2, 6 | 7)
            | (Global::RebuildTensorV3, 7 | 8) => self.tensor(global, arguments),
            (Global::RebuildParameter, 3) => match self.heap.tuples[arguments][0] {
                tensor @ Value::Tensor(_) => self.push(tensor),
                other => Err(self.bad("a tensor as parameter", other.describe())),
            },
            _ => Err(self.bad("a known number of arguments", length.to_string())),
        }
    }

    fn tensor(&mut self, global: Global, arguments: usize) -> Outcome<()> {
        let argument = |index: usize| self.heap.tuples[arguments].get(index).copied();
        let storage = match argument(0) {
            Some(Value::Storage(storage)) => self.heap.storages[storage as usize],
            other => return Err(self.bad("a storage", other.map_or("nothing", Value::describe))),
        };
        let (elements, metadata) = match (global, argument(6)) {
            (Global::RebuildTensorV3, Some(Value::Global(Global::Dtype(elements)))) => {
                (elements, argument(7))
            }
            (Global::RebuildTensorV3, other) => {
                return Err(self.bad("a dtype", other.map_or("nothing", Value::describe)));
            }
            (_, metadata) => (storage.elements, metadata),
        };
        // Says whether the tensor is a conjugated or negated view of its storage.
        match metadata {
            None | Some(Value::None) => {}
            Some(Value::Dict(dict)) if self.heap.dicts[dict as usize].is_empty() => {}
            Some(_) => return Err(self.bad("a plain tensor", "a conjugated or negated view")),
        }
        let offset = argument(1).and_then(natural);
        let offset = offset.ok_or_else(|| self.bad("a storage offset", "something else"))?;
        let shape = self.naturals(argument(2), "a shape")?;
        let stride = self.naturals(argument(3), "strides")?;
        if shape.len() != stride.len() {
            return Err(self.bad("a stride per dimension", stride.len().to_string()));
        }
        // The rank is limited, so a memoized tuple that is used again costs a bounded copy.
        self.count(shape.len() + stride.len())?;
        self.heap.tensors.push(PickledTensor {
            elements,
            storage_elements: storage.elements,
            storage_numel: storage.numel,
            offset,
            shape,
            stride,
            storage_key: storage.key,
        });
        self.push(Value::Tensor(self.heap.tensors.len() as u32 - 1))
    }

    fn naturals(&self, value: Option<Value>, expected: &'static str) -> Outcome<Vec<u64>> {
        let Some(Value::Tuple(tuple)) = value else {
            return Err(self.bad(expected, value.map_or("nothing", Value::describe)));
        };
        let items = &self.heap.tuples[tuple as usize];
        if items.len() > RANK_LIMIT {
            return Err(self.bad(expected, format!("{} dimensions", items.len())));
        }
        let naturals: Option<Vec<u64>> = items.iter().map(|&item| natural(item)).collect();
        naturals.ok_or_else(|| self.bad(expected, "something else than non-negative integers"))
    }

    /// Sets attributes. A state dict carries `_metadata`, module versions that nothing here needs.
    fn build(&mut self) -> Outcome<()> {
        self.pop("a state")?;
        match self.top("a dict")? {
            Value::Dict(_) => Ok(()),
            other => Err(self.bad("attributes of a dict", other.describe())),
        }
    }

    /// `("storage", type, key, location, numel[, view])`; the location is a device of no interest.
    fn persistent_id(&mut self) -> Outcome<()> {
        let id = match self.pop("a storage's id")? {
            Value::Tuple(tuple) => &self.heap.tuples[tuple as usize],
            other => return Err(self.bad("a storage's id", other.describe())),
        };
        let storage = match id[..] {
            [
                Value::Text(kind),
                Value::Global(Global::Storage(elements)),
                Value::Text(key),
                _,
                numel,
            ]
            | [
                Value::Text(kind),
                Value::Global(Global::Storage(elements)),
                Value::Text(key),
                _,
                numel,
                Value::None,
            ] if self.heap.texts[kind as usize] == "storage" => {
                natural(numel).map(|numel| StorageRef { elements, key, numel })
            }
            _ => None,
        };
        let Some(storage) = storage else {
            return Err(self.bad("a storage's id", "another tuple"));
        };
        self.heap.storages.push(storage);
        self.push(Value::Storage(self.heap.storages.len() as u32 - 1))
    }
}

fn natural(value: Value) -> Option<u64> {
    match value {
        Value::Int(value) => u64::try_from(value).ok(),
        _ => None,
    }
}
