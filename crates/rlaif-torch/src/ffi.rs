//! The C++ layer's functions and structs, as `cpp/rlaif.h` declares and documents them, and the
//! helpers that make calls of them safe.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    mem::offset_of,
};

use tch::{Kind, Tensor};
use torch_sys::C_tensor;

use crate::error::TorchError;

/// Declares an enum that crosses as a number, with the numbers that `rlaif.h` has for it.
macro_rules! numbers {
    ($(#[$about:meta])* enum $name:ident { $($variant:ident = $number:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($variant),+ }

        impl From<$name> for i32 {
            fn from(variant: $name) -> Self {
                match variant { $($name::$variant => $number),+ }
            }
        }

        impl TryFrom<i32> for $name {
            type Error = TorchError;

            fn try_from(number: i32) -> Result<Self, TorchError> {
                match number {
                    $($number => Ok(Self::$variant),)+
                    _ => Err(TorchError::Libtorch {
                        operation: concat!("reading a ", stringify!($name)),
                        message: format!("none has the number {number}"),
                    }),
                }
            }
        }
    };
}

numbers! {
    /// `RlaifStatus`.
    enum Status { Ok = 0, Failed = 1, OutOfMemory = 2, WrongKind = 3 }
}
numbers! {
    /// `RlaifFloat`: dtypes.
    enum Float { F32 = 0, Bf16 = 1, F16 = 2 }
}
numbers! {
    /// `RlaifActivation`.
    enum Activation { None = -1, Relu = 0, Silu = 1, Gelu = 2, GeluTanh = 3 }
}
numbers! {
    /// `RlaifCudaLoad`.
    enum CudaLoad { Loaded = 0, NotShipped = 1, NoDriver = 2 }
}
numbers! {
    /// `RlaifDeterminism`.
    enum Determinism { Any = 0, Warn = 1, Require = 2 }
}
numbers! {
    /// `RlaifIsa`.
    enum Isa { Portable = 0, Avx2 = 1, Avx512 = 2, Avx512Bf16 = 3 }
}

impl Float {
    /// The dtype's number, if it has one.
    pub(crate) fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Float => Some(Self::F32),
            Kind::BFloat16 => Some(Self::Bf16),
            Kind::Half => Some(Self::F16),
            _ => None,
        }
    }
}

/// `RlaifAdamWSlot`: a parameter and its optimizer state.
#[repr(C)]
pub(crate) struct AdamWSlot {
    pub(crate) param: *const C_tensor,
    /// Null if the step updates the parameter itself, or the parameter combined with its remainder.
    pub(crate) master: *const C_tensor,
    /// Null, except for bf16 on the CPU.
    pub(crate) remainder: *const C_tensor,
    pub(crate) exp_avg: *const C_tensor,
    pub(crate) exp_avg_sq: *const C_tensor,
    pub(crate) step: *const C_tensor,
}

/// `RlaifAdamWOptions`.
#[repr(C)]
pub(crate) struct AdamWOptions {
    pub(crate) lr: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
    /// Factor that gradients are multiplied by.
    pub(crate) gradient: f64,
}

/// `RlaifCudaMemory`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct CudaMemory {
    pub(crate) allocated: i64,
    pub(crate) allocated_peak: i64,
    pub(crate) reserved: i64,
    pub(crate) reserved_peak: i64,
}

/// `RlaifRowsLinear`.
#[repr(C)]
pub(crate) struct RowsLinear {
    pub(crate) x: *const C_tensor,
    pub(crate) norm: *const C_tensor,
    pub(crate) epsilon: f64,
    pub(crate) weights: List,
    pub(crate) biases: List,
    pub(crate) count: usize,
    pub(crate) residual: *const C_tensor,
    pub(crate) activation: i32,
    pub(crate) gated: i32,
    pub(crate) wide: i32,
    pub(crate) many: i32,
}

/// `RlaifQuantized`.
#[repr(C)]
pub(crate) struct Quantized {
    pub(crate) codes: *const C_tensor,
    pub(crate) scales: *const C_tensor,
    pub(crate) nested: *const C_tensor,
    pub(crate) nested_code: *const C_tensor,
    pub(crate) code: *const C_tensor,
    pub(crate) offset: f64,
    pub(crate) rows: i64,
    pub(crate) columns: i64,
    pub(crate) block: i64,
    pub(crate) nested_block: i64,
    pub(crate) kind: i32,
}

/// `RlaifRowsAttention`.
#[repr(C)]
pub(crate) struct RowsAttention {
    pub(crate) q: *const C_tensor,
    pub(crate) k: *const C_tensor,
    pub(crate) v: *const C_tensor,
    pub(crate) keys: *const C_tensor,
    pub(crate) values: *const C_tensor,
    pub(crate) lengths: *const i64,
    pub(crate) bias: *const C_tensor,
    pub(crate) scale: f64,
    pub(crate) window: i64,
}

/// `RlaifRowsCut`.
#[repr(C)]
pub(crate) struct RowsCut {
    pub(crate) top_k: i64,
    pub(crate) top_p: f64,
    pub(crate) min_p: f64,
}

/// `RlaifSegment`: a closure that C++ calls and drops.
#[repr(C)]
pub(crate) struct Segment {
    pub(crate) data: *mut c_void,
    pub(crate) call: unsafe extern "C" fn(*mut c_void, List, usize, *mut c_void) -> i32,
    pub(crate) drop: unsafe extern "C" fn(*mut c_void),
}

/// Asserts a struct's size and where its last field lies, in bytes; `rlaif.h` asserts the same.
macro_rules! layout {
    ($type:ty, $size:literal, $last:ident, $offset:literal) => {
        const _: () = assert!(size_of::<$type>() == $size && offset_of!($type, $last) == $offset);
    };
}

layout!(AdamWOptions, 48, gradient, 40);
layout!(AdamWSlot, 48, step, 40);
layout!(CudaMemory, 32, reserved_peak, 24);
layout!(Quantized, 88, kind, 80);
layout!(RowsLinear, 72, many, 68);
layout!(RowsAttention, 72, window, 64);
layout!(RowsCut, 24, min_p, 16);
layout!(Segment, 24, drop, 16);

/// A list of tensors as C++ takes it.
pub(crate) type List = *const *const C_tensor;

unsafe extern "C" {
    fn rlaif_last_error() -> *const c_char;

    pub(crate) fn rlaif_adamw_step(
        slots: *const AdamWSlot,
        len: usize,
        options: *const AdamWOptions,
    ) -> i32;
    pub(crate) fn rlaif_is_dense(tensor: *const C_tensor) -> i32;

    pub(crate) fn rlaif_grad_clip(
        params: List,
        len: usize,
        max_norm: f64,
        norm: *mut f64,
        factor: *mut f64,
    ) -> i32;
    pub(crate) fn rlaif_grad_clip_async(
        params: List,
        len: usize,
        max_norm: f64,
        norm: *mut *mut C_tensor,
    ) -> i32;
    pub(crate) fn rlaif_grad_non_finite(params: List, len: usize, flags: *mut u8) -> i32;
    pub(crate) fn rlaif_grad_drop(params: List, len: usize) -> i32;

    pub(crate) fn rlaif_rng_state(cuda: i32, state: *mut *mut C_tensor) -> i32;
    pub(crate) fn rlaif_rng_set_state(cuda: i32, state: *const C_tensor) -> i32;

    pub(crate) fn rlaif_cuda_load(outcome: *mut i32) -> i32;
    pub(crate) fn rlaif_set_tf32(on: i32) -> i32;
    pub(crate) fn rlaif_tf32(on: *mut i32) -> i32;
    pub(crate) fn rlaif_set_determinism(level: i32) -> i32;
    pub(crate) fn rlaif_determinism() -> i32;

    pub(crate) fn rlaif_set_intra_threads(n: i32) -> i32;
    pub(crate) fn rlaif_set_inter_threads(n: i32) -> i32;
    pub(crate) fn rlaif_intra_threads() -> i32;
    pub(crate) fn rlaif_inter_threads() -> i32;
    pub(crate) fn rlaif_set_flush_denormals(on: i32, supported: *mut i32) -> i32;
    pub(crate) fn rlaif_threads_keeping_denormals(count: *mut i32) -> i32;

    pub(crate) fn rlaif_keep_large_blocks(supported: *mut i32) -> i32;
    pub(crate) fn rlaif_peak_rss() -> u64;
    pub(crate) fn rlaif_cuda_memory(device: i32, out: *mut CudaMemory) -> i32;
    pub(crate) fn rlaif_cuda_memory_free(device: i32, out: *mut u64) -> i32;
    pub(crate) fn rlaif_cuda_reset_peak(device: i32) -> i32;
    pub(crate) fn rlaif_bump_version(tensor: *const C_tensor) -> i32;
    pub(crate) fn rlaif_storage(tensor: *const C_tensor) -> *const c_void;

    pub(crate) fn rlaif_grad_enabled() -> i32;
    pub(crate) fn rlaif_rms_norm(
        x: *const C_tensor,
        weight: *const C_tensor,
        epsilon: f64,
        out: *mut *mut C_tensor,
    ) -> i32;
    pub(crate) fn rlaif_rope(
        x: *const C_tensor,
        cos: *const C_tensor,
        sin: *const C_tensor,
        out: *mut *mut C_tensor,
    ) -> i32;
    pub(crate) fn rlaif_linear(
        x: *const C_tensor,
        weights: List,
        biases: List,
        len: usize,
        residual: *const C_tensor,
        out: *mut *mut C_tensor,
    ) -> i32;
    pub(crate) fn rlaif_dequantize(
        matrix: *const Quantized,
        first: i64,
        count: i64,
        kind: i32,
        out: *mut *mut C_tensor,
    ) -> i32;
    pub(crate) fn rlaif_quantized_linear(
        x: *const C_tensor,
        matrix: *const Quantized,
        bias: *const C_tensor,
        residual: *const C_tensor,
        out: *mut *mut C_tensor,
    ) -> i32;
    pub(crate) fn rlaif_gated(
        gate: *const C_tensor,
        up: *const C_tensor,
        activation: i32,
        out: *mut *mut C_tensor,
    ) -> i32;
    pub(crate) fn rlaif_work(operations: *mut i64, bytes: *mut i64);
    pub(crate) fn rlaif_limits(kind: i32, most_operations: *mut f64, most_bytes: *mut f64) -> i32;
    pub(crate) fn rlaif_sleep_soon(done: *mut i32) -> i32;
    pub(crate) fn rlaif_isa(chosen: *mut i32, best: *mut i32) -> i32;
    pub(crate) fn rlaif_attends_rows(kind: i32, head_dim: i64, supported: *mut i32) -> i32;
    pub(crate) fn rlaif_attention(
        q: *const C_tensor,
        k: *const C_tensor,
        v: *const C_tensor,
        bias: *const C_tensor,
        mask: *const C_tensor,
        head_dim: i64,
        query_lengths: *const i64,
        key_lengths: *const i64,
        rows: usize,
        causal: i32,
        scale: f64,
        dropout: f64,
        out: *mut *mut C_tensor,
    ) -> i32;
    pub(crate) fn rlaif_linear_log_probs(
        hidden: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        targets: *const C_tensor,
        temperature: f64,
        chunk: i64,
        out: *mut *mut C_tensor,
    ) -> i32;

    pub(crate) fn rlaif_recompute(
        segment: Segment,
        inputs: List,
        inputs_len: usize,
        rng_devices: *const i32,
        rng_states: List,
        rng_len: usize,
        outputs: List,
        adopted: *mut *mut C_tensor,
        outputs_len: usize,
    ) -> i32;
    pub(crate) fn rlaif_answer_output(answer: *mut c_void, output: *const C_tensor) -> i32;
    pub(crate) fn rlaif_answer_error(
        answer: *mut c_void,
        message: *const c_char,
        len: usize,
    ) -> i32;

    pub(crate) fn rlaif_rows_linear(call: *const RowsLinear, out: *mut *mut C_tensor) -> i32;
    pub(crate) fn rlaif_rows_attention(call: *const RowsAttention, out: *mut *mut C_tensor) -> i32;
    pub(crate) fn rlaif_rows_choose(
        logits: *const C_tensor,
        temperature: f64,
        uniforms: *const f64,
        cut: *const RowsCut,
        ids: *mut i64,
        log_probs: *mut f32,
        normalisers: *mut f64,
    ) -> i32;

    pub(crate) fn rlaif_graph_new(device: i32, graph: *mut *mut c_void) -> i32;
    pub(crate) fn rlaif_graph_free(graph: *mut c_void);
    pub(crate) fn rlaif_graph_enter(graph: *mut c_void) -> i32;
    pub(crate) fn rlaif_graph_begin(graph: *mut c_void) -> i32;
    pub(crate) fn rlaif_graph_end(graph: *mut c_void) -> i32;
    pub(crate) fn rlaif_graph_leave(graph: *mut c_void);
    pub(crate) fn rlaif_graph_replay(graph: *mut c_void) -> i32;

    pub(crate) fn rlaif_dist_built() -> i32;
    pub(crate) fn rlaif_store_open(
        host: *const c_char,
        port: u16,
        serve: i32,
        timeout_ms: i64,
        prefix: *const c_char,
        store: *mut *mut c_void,
    ) -> i32;
    pub(crate) fn rlaif_store_free(store: *mut c_void);
    pub(crate) fn rlaif_store_set(
        store: *mut c_void,
        key: *const c_char,
        value: *const u8,
        len: usize,
    ) -> i32;
    pub(crate) fn rlaif_store_get(
        store: *mut c_void,
        key: *const c_char,
        value: *mut *mut C_tensor,
    ) -> i32;
    pub(crate) fn rlaif_store_add(
        store: *mut c_void,
        key: *const c_char,
        by: i64,
        sum: *mut i64,
    ) -> i32;
    pub(crate) fn rlaif_group_open(
        store: *mut c_void,
        rank: i32,
        size: i32,
        timeout_ms: i64,
        interface: *const c_char,
        host: *const c_char,
        group: *mut *mut c_void,
    ) -> i32;
    pub(crate) fn rlaif_group_free(group: *mut c_void);
    pub(crate) fn rlaif_group_sum(
        group: *mut c_void,
        tensor: *const C_tensor,
        work: *mut *mut c_void,
    ) -> i32;
    pub(crate) fn rlaif_group_gather(
        group: *mut c_void,
        tensor: *const C_tensor,
        outputs: List,
        len: usize,
        work: *mut *mut c_void,
    ) -> i32;
    pub(crate) fn rlaif_work_wait(work: *mut c_void, timeout_ms: i64, done: *mut i32) -> i32;
    pub(crate) fn rlaif_work_free(work: *mut c_void);

    /// The C library's.
    pub(crate) fn _exit(status: c_int) -> !;
}

/// Turns the status of a call into a result; the message is the calling thread's last one.
pub(crate) fn check(operation: &'static str, status: i32) -> Result<(), TorchError> {
    // A number without a meaning is a failure.
    let status = Status::try_from(status).unwrap_or(Status::Failed);
    if status == Status::Ok {
        return Ok(());
    }
    // SAFETY: a valid C string until this thread's next failing call, and it is copied here.
    let message = unsafe { CStr::from_ptr(rlaif_last_error()) }.to_string_lossy().into_owned();
    Err(match (TorchError::from_libtorch(operation, message), status) {
        (TorchError::Libtorch { message, .. }, Status::OutOfMemory) => {
            TorchError::OutOfMemory { requested: None, message }
        }
        (TorchError::Libtorch { operation, message }, Status::WrongKind) => {
            TorchError::Kind { operation, message }
        }
        (error, _) => error,
    })
}

/// The tensors as C++ takes them. The pointers live as long as the tensors.
pub(crate) fn list<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<*const C_tensor> {
    tensors.into_iter().map(Tensor::as_ptr).collect()
}

/// Takes a tensor that C++ handed over.
///
/// # Safety
/// `tensor` must have come from `rlaif::give` and be taken once.
pub(crate) unsafe fn take(tensor: *mut C_tensor) -> Tensor {
    // SAFETY: `rlaif::give` allocated it with `new at::Tensor`, which is what tch frees.
    unsafe { Tensor::from_ptr(tensor) }
}

#[cfg(test)]
mod tests {
    //! The two lists of declarations, compared word for word.

    use std::collections::BTreeMap;

    const HEADER: &str = include_str!("../cpp/rlaif.h");
    const RUST: &str = include_str!("ffi.rs");

    /// Name, then the parameters or fields as names with types in Rust's spelling, then the result.
    type Declared = BTreeMap<String, (Vec<(String, String)>, String)>;

    /// The code without comments, and with one space between words.
    fn code(text: &str) -> String {
        let lines = text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
        // Neither `#include` nor `#pragma`; `#[repr(C)]` stays.
        let directive = |line: &&str| line.starts_with('#') && !line.starts_with("#[");
        let lines = lines.filter(|line| !directive(line));
        lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
    }

    /// The Rust type of a C type.
    fn as_rust(c: &str) -> String {
        let tensor = "C_tensor";
        let plain = |c: &str| match c {
            "void" => "c_void".to_owned(),
            "char" => "c_char".to_owned(),
            "double" => "f64".to_owned(),
            "float" => "f32".to_owned(),
            "size_t" => "usize".to_owned(),
            "at::Tensor" => tensor.to_owned(),
            c => match c.strip_suffix("_t").map(|c| c.replace("uint", "u").replace("int", "i")) {
                Some(integer) => integer,
                None => c.strip_prefix("Rlaif").unwrap_or(c).to_owned(),
            },
        };
        match c {
            "const at::Tensor* const*" => "List".to_owned(),
            c => match (c.strip_suffix('*'), c.strip_prefix("const ")) {
                (Some(pointee), Some(_)) if !pointee.ends_with('*') => {
                    format!("*const {}", plain(&pointee["const ".len()..]))
                }
                (Some(pointee), _) => format!("*mut {}", as_rust(pointee.trim_end())),
                (None, _) => plain(c),
            },
        }
    }

    fn of_c() -> (Declared, Declared) {
        let code = code(HEADER);
        let (mut functions, mut structs) = (Declared::new(), Declared::new());
        let named = |typed: &str| {
            // `type name`, and for a pointer to a function `type (*name)(types and names)`.
            if let Some((result, rest)) = typed.split_once(" (*") {
                let (name, parameters) = rest.split_once(")(").unwrap();
                let types = parameters.trim_end_matches(')').split(", ");
                let types = types.map(|p| as_rust(p.rsplit_once(' ').unwrap().0));
                let result = match result {
                    "void" => String::new(),
                    result => format!(" -> {}", as_rust(result)),
                };
                let types = types.collect::<Vec<_>>().join(", ");
                return (name.to_owned(), format!("unsafe extern \"C\" fn({types}){result}"));
            }
            let (kind, name) = typed.rsplit_once(' ').unwrap();
            (name.to_owned(), as_rust(kind))
        };
        let open = code.find("extern \"C\" {").unwrap();
        let close = code.find("static_assert").unwrap_or(code.len());
        let mut rest = &code[open + "extern \"C\" {".len()..close];
        loop {
            rest = rest.trim_start();
            if let Some(body) = rest.strip_prefix("struct ") {
                let (name, body) = body.split_once(" {").unwrap();
                let (fields, after) = body.split_once("};").unwrap();
                let fields = fields.split(';').map(str::trim).filter(|f| !f.is_empty());
                let fields = fields.flat_map(|field| {
                    if field.contains('(') {
                        return vec![named(field)];
                    }
                    // `double lr, beta1` and `const T *param, *master`.
                    let mut several = field.split(", ");
                    let first = several.next().unwrap().replace(" *", "* ");
                    let kind = first.rsplit_once(' ').unwrap().0.to_owned();
                    let others = several.map(|f| format!("{kind} {}", f.trim_start_matches('*')));
                    let all = std::iter::once(first).chain(others);
                    all.map(|f| named(&f)).collect::<Vec<_>>()
                });
                let fields = fields.collect();
                structs.insert(as_rust(name), (fields, String::new()));
                rest = after;
            } else if let Some((function, after)) = rest.split_once(") noexcept;") {
                let (typed, parameters) = function.split_once('(').unwrap();
                let (name, result) = named(typed);
                let parameters = parameters.split(", ").filter(|p| !p.is_empty());
                let result = if result == "c_void" { String::new() } else { result };
                functions.insert(name, (parameters.map(named).collect(), result));
                rest = after;
            } else {
                assert_eq!(rest.split_once(' ').map_or(rest, |(word, _)| word), "}");
                return (functions, structs);
            }
        }
    }

    fn of_rust() -> (Declared, Declared) {
        let code = code(RUST.split("#[cfg(test)]").next().unwrap());
        let named = |typed: &str| {
            let (name, kind) = typed.split_once(": ").unwrap();
            (name.trim_start_matches("pub(crate) ").to_owned(), kind.to_owned())
        };
        let listed = |list: &str| {
            let list = list.trim().trim_end_matches(',');
            // Not at the commas within a type.
            let mut fields: Vec<String> = vec![];
            for part in list.split(", ").filter(|part| !part.is_empty()) {
                match fields.last_mut() {
                    Some(last) if last.matches('(').count() > last.matches(')').count() => {
                        *last += &format!(", {part}");
                    }
                    _ => fields.push(part.trim_start_matches("pub(crate) ").to_owned()),
                }
            }
            fields.iter().map(|f| named(f)).collect::<Vec<_>>()
        };
        let mut structs = Declared::new();
        for part in code.split("#[repr(C)]").skip(1) {
            let (_, part) = part.split_once("struct ").unwrap();
            let (name, body) = part.split_once(" {").unwrap();
            let (fields, _) = body.split_once(" }").unwrap();
            structs.insert(name.to_owned(), (listed(fields), String::new()));
        }
        let mut functions = Declared::new();
        let blocks: Vec<_> = code.split("unsafe extern \"C\" {").collect();
        assert_eq!(blocks.len(), 2, "one block of declarations");
        let (block, _) = blocks[1].split_once(" }").unwrap();
        for function in block.split(';').map(str::trim).filter(|f| f.contains("fn rlaif_")) {
            let (_, function) = function.split_once("fn ").unwrap();
            let (name, rest) = function.split_once('(').unwrap();
            let (parameters, result) = rest.split_once(')').unwrap();
            let result = result.trim_start_matches(" -> ").to_owned();
            functions.insert(name.to_owned(), (listed(parameters), result));
        }
        (functions, structs)
    }

    #[test]
    fn both_sides_declare_the_same() {
        let (c, rust) = (of_c(), of_rust());
        assert_eq!((c.0.len(), c.1.len()), (66, 8), "functions and structs in rlaif.h");
        for (c, rust) in [(c.0, rust.0), (c.1, rust.1)] {
            for (name, declared) in &c {
                assert_eq!(rust.get(name), Some(declared), "{name} in ffi.rs, and in rlaif.h");
            }
            let more: Vec<_> = rust.keys().filter(|name| !c.contains_key(*name)).collect();
            assert!(more.is_empty(), "not in rlaif.h: {more:?}");
        }
    }

    /// Name of each enum, and its variants with their numbers.
    type Numbers = BTreeMap<String, Vec<(String, i32)>>;

    /// The enums after each `open`, which end at `close`; names begin with these prefixes.
    fn numbers(text: &str, open: &str, close: &str, prefixes: [&str; 2]) -> Numbers {
        let enums = text.split(open).skip(1).map(|part| {
            let (name, part) = part.split_once(" {").unwrap();
            let name = name.split(" :").next().unwrap().strip_prefix(prefixes[0]).unwrap();
            let (body, _) = part.split_once(close).unwrap();
            let variants = body.split(", ").map(|variant| {
                let (name, number) = variant.trim().split_once(" = ").unwrap();
                let name = name.strip_prefix(prefixes[1]).unwrap().to_owned();
                (name, number.trim_end_matches(',').parse().unwrap())
            });
            (name.to_owned(), variants.collect())
        });
        enums.collect()
    }

    #[test]
    fn both_sides_have_the_same_numbers() {
        let c = numbers(&code(HEADER), "enum Rlaif", " };", ["", "k"]);
        let rust = code(RUST.split("#[cfg(test)]").next().unwrap());
        let rust = rust.split_once("numbers! { enum ").unwrap().1;
        let rust = numbers(&format!("numbers! {{ enum {rust}"), "numbers! { enum ", " }", ["", ""]);
        assert_eq!(c.len(), 6, "{c:?}");
        assert_eq!(c, rust);
    }

    #[test]
    fn c_types_are_read() {
        for (c, rust) in [
            ("int32_t", "i32"),
            ("uint8_t*", "*mut u8"),
            ("const char*", "*const c_char"),
            ("void**", "*mut *mut c_void"),
            ("at::Tensor**", "*mut *mut C_tensor"),
            ("const at::Tensor*", "*const C_tensor"),
            ("const at::Tensor* const*", "List"),
            ("const RlaifRowsCut*", "*const RowsCut"),
        ] {
            assert_eq!(as_rust(c), rust);
        }
    }
}
