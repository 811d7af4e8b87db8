//! A first reward: short answers that keep to the point, and say please.
//!
//! `cargo run --example custom_reward`

use rlaif::core::{Exchange, RewardModel};
use rlaif::rewards::{Length, RewardExt, WeightedSum};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Any function from a batch to one number per row is a reward model.
    let politeness = |batch: &[Exchange<'_>]| -> Vec<f32> {
        batch.iter().map(|x| x.response.to_lowercase().matches("please").count() as f32).collect()
    };
    let reward = WeightedSum::new("manners")
        .term(1., politeness.clipped(0., 1.)?)
        .term(0.5, Length::at_most(5, 5.)?);

    let batch = [
        Exchange::new("Ask for the salt.", "The salt, please."),
        Exchange::new("Ask for the salt.", "Give me that salt over there at once, will you?"),
    ];
    for (exchange, score) in batch.iter().zip(reward.score(&batch)?.total) {
        println!("{:>5.2}  {}", score.map_or(f32::NAN, |score| score.get()), exchange.response);
    }
    Ok(())
}
