//! Recorded work on a GPU; an error without one.

use rlaif_torch::{CudaGraph, TorchError, load_cuda};
use tch::{Cuda, Device, Kind, Tensor, no_grad};

#[test]
fn without_a_gpu_there_is_an_error_and_with_one_a_replay_computes() {
    load_cuda().unwrap();
    let work = || Ok::<_, TorchError>(());
    if !Cuda::is_available() {
        let error = CudaGraph::record(Device::Cuda(0), work).unwrap_err();
        assert!(matches!(error, TorchError::NoDevice { .. }), "{error}");
        return;
    }
    no_grad(|| {
        let options = (Kind::Float, Device::Cuda(0));
        let (x, w) = (Tensor::ones([4, 8], options), Tensor::ones([8, 8], options));
        let (graph, y) =
            CudaGraph::record(Device::Cuda(0), || Ok::<_, TorchError>(x.matmul(&w) + 1.)).unwrap();
        for value in [1., 2., 3.] {
            let _ = x.shallow_clone().fill_(value);
            graph.replay().unwrap();
            assert_eq!(y.double_value(&[0, 0]), 8. * value + 1.);
        }
    });
}
