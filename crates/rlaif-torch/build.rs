//! Compiles the C++ layer against the headers of the libtorch that torch-sys links.

use std::env;
use std::path::{Path, PathBuf};

const SOURCES: [&str; 13] = [
    "cpp/adamw.cpp",
    "cpp/allocator.cpp",
    "cpp/error.cpp",
    "cpp/device.cpp",
    "cpp/grad.cpp",
    "cpp/graph.cpp",
    "cpp/linear.cpp",
    "cpp/log_prob.cpp",
    "cpp/memory.cpp",
    "cpp/parallel.cpp",
    "cpp/recompute.cpp",
    "cpp/rng.cpp",
    "cpp/threads.cpp",
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
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++17")
            .pic(true)
            // In debug builds too: what users debug is Rust, and PPO in them should not crawl.
            .opt_level(3)
            // Lines for backtraces, as Rust's own in this workspace. Types and variables of
            // libtorch's headers would be two thirds of every binary.
            .debug(false)
            .flag_if_supported("-g1")
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
    reordering()
        .files(KERNELS)
        // GCC's own vector intrinsics pass registers that they mean to be undefined.
        .flag_if_supported("-Wno-maybe-uninitialized")
        .compile("rlaif_torch_kernels");
    reordering().file("cpp/rows.cpp").compile("rlaif_torch_rows");
    // Its sums are to keep their order.
    build().file("cpp/rows_tile.cpp").compile("rlaif_torch_tiles");

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    if let Err(error) = offer_to_cargo(&lib, &out) {
        println!("cargo::warning=`cargo run` and doc tests may not find libtorch: {error}");
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
