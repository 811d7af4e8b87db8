//! Fits a line to points with rlaif-torch's AdamW, and prints how near it came.

use rlaif_torch::tch::{Device, Kind, Tensor};
use rlaif_torch::{AdamW, AdamWOptions, ParamGroup};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rlaif_torch::init()?;
    let x = Tensor::linspace(-1.0, 1.0, 64, (Kind::Float, Device::Cpu));
    let y = &x * 3.0 + 0.5;

    let slope = Tensor::zeros([1], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let offset = Tensor::zeros([1], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let params = [("slope", &slope), ("offset", &offset)]
        .map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()))
        .into();
    let options = AdamWOptions { lr: 0.05, weight_decay: 0.0, ..Default::default() };
    let mut optimizer = AdamW::new(vec![ParamGroup { params, options }])?;

    for _ in 0..400 {
        optimizer.zero_grad()?;
        (&slope * &x + &offset - &y).square().mean(Kind::Float).backward();
        optimizer.step()?;
    }
    let found = [&slope, &offset].map(|tensor| tensor.double_value(&[0]));
    println!("slope {:.3} and offset {:.3}, where 3 and 0.5 are right", found[0], found[1]);
    if (found[0] - 3.0).abs() < 1e-2 && (found[1] - 0.5).abs() < 1e-2 {
        Ok(())
    } else {
        Err("AdamW did not find the line".into())
    }
}
