//! Saved and restored generators.

use crate::common::{alone, devices};
use rlaif_torch::{RngState, TorchError, seeded};
use tch::{Device, Kind, Tensor};

fn draw(device: Device) -> Vec<Tensor> {
    let options = (Kind::Float, device);
    // An odd number of normal draws leaves half of a Box-Muller pair in the CPU generator.
    vec![
        Tensor::rand([5], options),
        Tensor::randn([3], options),
        Tensor::randperm(17, (Kind::Int64, device)),
        Tensor::ones([100], options).dropout(0.5, true),
        Tensor::ones([8], options).multinomial(4, false),
    ]
}

#[test]
fn a_restored_generator_draws_the_same_again() {
    let devices = devices();
    let _guard = alone();
    for device in devices {
        tch::manual_seed(9);
        let before = draw(device);
        let state = RngState::save().unwrap();
        let first = draw(device);
        let _ = draw(device);
        state.restore().unwrap();
        assert_eq!(draw(device), first);
        assert_ne!(first[0], before[0], "draws differ, or the test says nothing");
    }
}

#[test]
fn seeded_work_draws_by_its_seed_and_leaves_no_trace() {
    let devices = devices();
    let _guard = alone();
    for device in devices {
        tch::manual_seed(5);
        let expected = draw(device);
        let state = RngState::save().unwrap();
        let undisturbed = draw(device);
        state.restore().unwrap();

        assert_eq!(seeded(5, || draw(device)).unwrap(), expected);
        assert_ne!(seeded(6, || draw(device)).unwrap()[0], expected[0]);
        let nested = seeded(5, || {
            let _ = seeded(6, || draw(device)).unwrap();
            draw(device)
        });
        assert_eq!(nested.unwrap(), expected);
        let panicked = std::panic::catch_unwind(|| {
            seeded(5, || {
                let _ = draw(device);
                panic!("in the middle");
            })
        });
        assert!(panicked.is_err());
        assert_eq!(draw(device), undisturbed);
    }
}

#[test]
fn a_state_survives_its_named_form() {
    let devices = devices();
    let _guard = alone();
    let saved = RngState::save().unwrap().to_named();
    assert_eq!(saved[0].0, "cpu");
    assert_eq!(saved[0].1.kind(), Kind::Uint8);
    let first = draw(Device::Cpu);
    let copies: Vec<_> = saved.iter().map(|(n, t)| (n.clone(), t.copy())).collect();
    RngState::from_named(&copies).unwrap().restore().unwrap();
    assert_eq!(draw(Device::Cpu), first);
    assert_eq!(saved.len() > 1, devices.len() > 1, "one state per CUDA device");
}

#[test]
fn states_that_are_none_are_refused() {
    devices();
    let _guard = alone();
    let bytes = || Tensor::zeros([4], (Kind::Uint8, Device::Cpu));
    for names in [vec!["gpu"], vec!["cuda:0"], vec!["cpu", "cuda:x"], vec!["cpu", "cuda:-1"]] {
        let named: Vec<_> = names.iter().map(|n| ((*n).to_owned(), bytes())).collect();
        let error = RngState::from_named(&named).unwrap_err();
        assert!(matches!(error, TorchError::State { .. }), "{error}");
    }
    let before = RngState::save().unwrap();
    let named = [("cpu".to_owned(), bytes())];
    let error = RngState::from_named(&named).unwrap().restore().unwrap_err();
    assert!(matches!(error, TorchError::Libtorch { .. }), "{error}");
    let after = RngState::save().unwrap();
    assert_eq!(before.to_named()[0].1, after.to_named()[0].1);
}

#[test]
fn a_state_of_a_device_that_is_not_here_is_refused() {
    devices();
    let _guard = alone();
    let mut named = RngState::save().unwrap().to_named();
    named.push(("cuda:4096".to_owned(), Tensor::zeros([16], (Kind::Uint8, Device::Cpu))));
    let error = RngState::from_named(&named).unwrap().restore().unwrap_err();
    assert!(matches!(&error, TorchError::NoDevice { wanted, .. } if wanted == "cuda:4096"));
}
