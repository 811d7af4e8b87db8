//! Lets the tests find libtorch, and passes its folder on.

fn main() {
    rlaif_build::link_libtorch();
}
