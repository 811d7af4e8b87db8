//! Switches of the process. One test: its neighbours would feel them.

use rlaif_torch::{
    Determinism, Tf32, TorchError, determinism, inter_op_threads, intra_op_threads,
    set_determinism, set_inter_op_threads, set_intra_op_threads, set_tf32, tf32,
};
use tch::{Device, Kind, Tensor};

/// `put_` with an index twice has no deterministic algorithm.
fn put() -> Result<(), TorchError> {
    let mut target = Tensor::zeros([4], (Kind::Float, Device::Cpu));
    let index = Tensor::from_slice(&[1i64, 1]);
    let _ = target.f_put_(&index, &Tensor::from_slice(&[1f32, 2.0]), false)?;
    Ok(())
}

#[test]
fn switches_do_what_they_say() {
    assert_eq!(determinism(), Determinism::Any);
    put().unwrap();
    set_determinism(Determinism::Warn).unwrap();
    assert_eq!(determinism(), Determinism::Warn);
    put().unwrap();
    set_determinism(Determinism::Require).unwrap();
    assert_eq!(determinism(), Determinism::Require);
    let error = put().unwrap_err();
    let TorchError::Tch { source } = error else { panic!("{error:?}") };
    assert!(source.to_string().contains("deterministic"), "{source}");
    set_determinism(Determinism::Any).unwrap();
    put().unwrap();

    for choice in [Tf32::On, Tf32::Off] {
        set_tf32(choice).unwrap();
        assert_eq!(tf32().unwrap(), choice);
    }

    set_intra_op_threads(3).unwrap();
    assert_eq!(intra_op_threads(), 3);
    set_inter_op_threads(2).unwrap();
    assert_eq!(inter_op_threads(), 2);
    let late = set_inter_op_threads(3).unwrap_err();
    assert!(matches!(late, TorchError::Libtorch { .. }), "{late}");
    for set in [set_intra_op_threads, set_inter_op_threads] {
        for wrong in [0, usize::MAX] {
            let error = set(wrong).unwrap_err();
            assert!(matches!(error, TorchError::Setting(_)), "{error}");
        }
    }
}
