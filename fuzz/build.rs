//! Lets the targets find libtorch when their binary is run directly.

fn main() {
    rlaif_build::link_libtorch();
}
