//! Compiles the C++ layer against the headers of the libtorch that torch-sys links.

use std::env;
use std::path::{Path, PathBuf};

const SOURCES: [&str; 17] = [
    "cpp/adamw.cpp",
    "cpp/allocator.cpp",
    "cpp/composed.cpp",
    "cpp/error.cpp",
    "cpp/device.cpp",
    "cpp/grad.cpp",
    "cpp/graph.cpp",
    "cpp/isa.cpp",
    "cpp/linear.cpp",
    "cpp/log_prob.cpp",
    "cpp/memory.cpp",
    "cpp/parallel.cpp",
    "cpp/quantized.cpp",
    "cpp/recompute.cpp",
    "cpp/rng.cpp",
    "cpp/threads.cpp",
    "cpp/work.cpp",
];

const KERNELS: [&str; 6] = [
    "cpp/attention.cpp",
    "cpp/gated.cpp",
    "cpp/kernels.cpp",
    "cpp/matmul.cpp",
    "cpp/optimizer.cpp",
    "cpp/softmax.cpp",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cpp");
    println!("cargo::rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    println!("cargo::rerun-if-env-changed=LIBTORCH_INCLUDE");
    if env::var_os("CARGO_FEATURE_DOC_ONLY").is_some() {
        return;
    }
    let lib = rlaif_build::link_libtorch()
        .expect("torch-sys names libtorch's folder unless the feature `doc-only` is on");
    // The variables that torch-sys itself reads, so that both compile against the same headers.
    let include = env::var_os("LIBTORCH_INCLUDE")
        .map_or_else(|| lib.join("../include"), |root| PathBuf::from(root).join("include"));
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());

    let build = || {
        let mut build = cpp();
        build
            // System headers: their warnings are not ours to mend.
            .flag(format!("-isystem{}", include.display()))
            .flag(format!("-isystem{}", include.join("torch/csrc/api/include").display()))
            .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str());
        build
    };
    // Kernels may add in another order, to vectorise; NaN and infinity keep their meaning.
    let reordering = || {
        let mut build = build();
        for flag in
            ["-fno-math-errno", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math"]
        {
            build.flag(flag);
        }
        build
    };
    build().files(SOURCES).compile("rlaif_torch");
    build().include("cpp/gloo_names").file("cpp/dist.cpp").compile("rlaif_torch_dist");
    reordering()
        .files(KERNELS)
        // GCC's own vector intrinsics pass registers that they mean to be undefined.
        .flag_if_supported("-Wno-maybe-uninitialized")
        .compile("rlaif_torch_kernels");
    reordering().file("cpp/rows.cpp").compile("rlaif_torch_rows");

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    compile_tiles(&out);
    if let Err(error) = offer_to_cargo(&lib, &out) {
        println!("cargo::warning=`cargo run` and doc tests may not find libtorch: {error}");
    }
}

/// The settings of every C++ source.
fn cpp() -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .pic(true)
        // In debug builds too: users debug Rust, and PPO in them should not crawl.
        .opt_level(3)
        // Lines for backtraces, as Rust's own in this workspace. Types and variables of
        // libtorch's headers would be two thirds of every binary.
        .debug(false)
        .flag_if_supported("-g1");
    build
}

/// Compiles `cpp/tiles.cpp` once for each instruction set that is chosen among at run time.
fn compile_tiles(out: &Path) {
    const AVX2: &[&str] = &["-mavx2", "-mfma"];
    const AVX512: &[&str] = &["-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"];
    let avx512_bf16 = &[AVX512, &["-mavx512bf16"]].concat();
    let mut sets: Vec<(&str, &[&str])> = vec![("portable", &[])];
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        sets.extend([("avx2", AVX2), ("avx512", AVX512), ("avx512bf16", avx512_bf16)]);
    }
    for (name, flags) in sets {
        // Objects have the name of their source, so each set has a folder of its own.
        let folder = out.join(name);
        std::fs::create_dir_all(&folder).expect("cargo lets build scripts write to OUT_DIR");
        let mut build = cpp();
        build
            .flag_if_supported("-ffp-contract=fast")
            // Vectors of the compiler's are wider than registers of some sets; none crosses a call.
            .flag_if_supported("-Wno-psabi")
            .define("RLAIF_TILES", format!("tiles_{name}").as_str())
            .file("cpp/tiles.cpp")
            .out_dir(&folder);
        for flag in flags {
            build.flag(flag);
        }
        build.compile(&format!("rlaif_torch_tiles_{name}"));
    }
}

/// Lets `cargo run` and `cargo test` find libtorch in packages without a build script, and in doc
/// tests, which get no linker arguments: cargo adds a link search path to the dynamic one only if
/// it lies in the target folder, so libtorch gets a link there.
#[cfg(unix)]
fn offer_to_cargo(lib: &Path, out: &Path) -> std::io::Result<()> {
    let link = out.join("libtorch");
    match std::fs::remove_file(&link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => std::os::unix::fs::symlink(lib, &link)?,
    }
    println!("cargo::rustc-link-search=native={}", link.display());
    Ok(())
}

#[cfg(not(unix))]
fn offer_to_cargo(_: &Path, _: &Path) -> std::io::Result<()> {
    Ok(())
}
