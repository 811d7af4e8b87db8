//! Lets the examples find libtorch when their binaries are run directly.

fn main() {
    rlaif_build::link_libtorch();
}
