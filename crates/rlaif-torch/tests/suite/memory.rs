//! Memory of CUDA devices.

use rlaif_torch::{TorchError, cuda_memory, reset_cuda_peak};
use tch::{Cuda, Device, Kind, Tensor};

use crate::common::{alone, devices};

#[test]
fn cuda_statistics_follow_a_tensor() {
    devices();
    let _guard = alone();
    if !Cuda::is_available() {
        let error = cuda_memory(0).unwrap_err();
        assert!(matches!(&error, TorchError::NoDevice { wanted, .. } if wanted == "cuda:0"));
        assert!(reset_cuda_peak(0).is_err());
        return;
    }
    const BYTES: u64 = 256 << 20;
    let before = cuda_memory(0).unwrap();
    let tensor = Tensor::zeros([BYTES as i64], (Kind::Uint8, Device::Cuda(0)));
    let with = cuda_memory(0).unwrap();
    // Other tests may allocate at the same time, but far less.
    assert!(with.allocated >= before.allocated + BYTES / 2, "{before:?} {with:?}");
    assert!(with.reserved >= with.allocated && with.reserved_peak >= with.reserved, "{with:?}");
    drop(tensor);
    assert!(cuda_memory(0).unwrap().allocated_peak >= with.allocated);
    reset_cuda_peak(0).unwrap();
    assert!(cuda_memory(0).unwrap().allocated_peak < with.allocated);
}

#[test]
fn running_out_of_device_memory_is_told_apart() {
    for device in devices() {
        let error = Tensor::f_empty([1 << 46], (Kind::Float, device)).unwrap_err();
        let error = TorchError::from(error);
        let TorchError::OutOfMemory { requested, .. } = error else { panic!("{error:?}") };
        assert_eq!(requested, Some(1 << 48), "{device:?}");
    }
}
