//! Devices that there are. libtorch remembers that it was asked about CUDA before CUDA was loaded, so
//! these stand where every test loads it first.

use rlaif_torch::{DeviceChoice, TorchError, load_cuda};
use tch::{Cuda, Device};

#[test]
fn a_device_that_is_not_there_is_told_with_those_that_are() {
    let error = DeviceChoice::Cuda(4096).resolve().unwrap_err();
    let TorchError::NoDevice { wanted, available } = error else { panic!("{error:?}") };
    assert_eq!(wanted, "cuda:4096");
    assert!(available.contains("`cpu`"), "{available}");
}

#[test]
fn auto_takes_what_there_is() {
    let found = DeviceChoice::Auto.resolve().unwrap();
    assert_eq!(found == Device::Cuda(0), Cuda::is_available());
}

#[test]
fn loading_again_changes_nothing() {
    assert_eq!(load_cuda().unwrap(), load_cuda().unwrap());
}
