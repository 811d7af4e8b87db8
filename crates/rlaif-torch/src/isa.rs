//! The instruction set that kernels on the CPU use.

use std::env;

use rlaif_core::BadSetting;

use crate::error::TorchError;
use crate::ffi;

/// An instruction set that kernels are compiled for, from the narrowest to the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// The baseline of the target: SSE2 on x86-64, NEON on 64-bit Arm.
    Portable,
    /// AVX2 and FMA: 8 numbers in f32 at a time.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL): 16 numbers in f32 at a time.
    Avx512,
    /// AVX-512 with products of bf16.
    Avx512Bf16,
}

impl Isa {
    const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    fn of(number: i32) -> Self {
        match ffi::Isa::try_from(number).expect("an instruction set of rlaif.h") {
            ffi::Isa::Portable => Self::Portable,
            ffi::Isa::Avx2 => Self::Avx2,
            ffi::Isa::Avx512 => Self::Avx512,
            ffi::Isa::Avx512Bf16 => Self::Avx512Bf16,
        }
    }

    /// The name of the set, a value of the environment variable `RLAIF_ISA`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
        }
    }

    /// The sets that this processor has, from the narrowest to the widest.
    #[must_use]
    pub fn available() -> &'static [Self] {
        let (mut chosen, mut best) = (0, 0);
        // SAFETY: both outlive the call. That `RLAIF_ISA` may be wrong is of no matter here.
        unsafe { ffi::rlaif_isa(&raw mut chosen, &raw mut best) };
        let best = Self::of(best);
        let known = Self::ALL.iter().take_while(|isa| **isa <= best).count();
        &Self::ALL[..known]
    }
}

/// The instruction set in use: the best one of this processor, or the one that the environment variable
/// `RLAIF_ISA` names, for tests and comparisons. It does not change while a process runs.
///
/// libtorch's own kernels are not restricted by it, but by `ATEN_CPU_CAPABILITY`,
/// `MKL_ENABLE_INSTRUCTIONS` and `ONEDNN_MAX_CPU_ISA`.
///
/// # Errors
/// [`TorchError::Setting`] if `RLAIF_ISA` names none that this processor has.
///
/// ```
/// use rlaif_torch::{Isa, isa};
/// assert!(Isa::available().contains(&isa()?));
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn isa() -> Result<Isa, TorchError> {
    let (mut chosen, mut best) = (0, 0);
    // SAFETY: both outlive the call.
    let status = unsafe { ffi::rlaif_isa(&raw mut chosen, &raw mut best) };
    if ffi::check("choosing kernels", status).is_ok() {
        return Ok(Isa::of(chosen));
    }
    let found = env::var_os("RLAIF_ISA").unwrap_or_default().to_string_lossy().into_owned();
    let names: Vec<&str> = Isa::available().iter().map(|isa| isa.name()).collect();
    let expected = format!("one of those that this processor has: {}", names.join(", "));
    Err(BadSetting::new("RLAIF_ISA", found, expected).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_tests_of_kernels_pass_at_each_width() {
        let lower = Isa::available().iter().filter(|&&other| isa().is_ok_and(|isa| other < isa));
        let names = lower.map(|isa| isa.name());
        let kernels = ["rows::", "fused::", "linear::", "attention::", "adamw::"];
        rlaif_testing::run_again("RLAIF_ISA", names, &kernels);
    }

    #[test]
    fn an_unknown_width_is_refused_with_those_there_are() {
        let name = "isa::tests::an_unknown_width_is_refused_with_those_there_are";
        match env::var("RLAIF_ISA").as_deref() {
            Ok("avx1024") => {
                let error = crate::init().unwrap_err();
                assert!(matches!(error, TorchError::Setting(_)), "{error:?}");
                let said = error.to_string();
                assert!(said.contains("avx1024") && said.contains("portable"), "{said}");
                // A kernel that is called all the same says so, too.
                let x = tch::Tensor::zeros([1, 2], (tch::Kind::Float, tch::Device::Cpu));
                let error = crate::choose_tokens(&x, 1., None, &crate::TokenCut::default());
                assert!(error.unwrap_err().to_string().contains("avx1024"));
            }
            _ => {
                let program = env::current_exe().unwrap();
                let child = Command::new(program)
                    .args([name, "--exact"])
                    .env("RLAIF_ISA", "avx1024")
                    .output()
                    .unwrap();
                assert!(child.status.success(), "{child:?}");
            }
        }
    }
}
