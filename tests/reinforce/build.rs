fn main() {
    rlaif_build::link_libtorch();
}
