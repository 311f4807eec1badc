//! Turns: two suites side by side, driven one after the other, again and again. The machine's speed
//! drifts, and this way whatever disturbs one disturbs both.

use std::time::Duration;

use anyhow::Result;

/// Short beside the machine's drift, long beside a turn's beginning and end.
pub(crate) const TURN: Duration = Duration::from_millis(1_500);
const TURNS: usize = 12;

/// What each of the two, which are 0 and 1, comes to in its turns.
pub(crate) async fn alternate<T>(
    mut turn: impl AsyncFnMut(usize) -> Result<T>,
) -> Result<[Vec<T>; 2]> {
    let mut turns = [Vec::new(), Vec::new()];
    for number in 0..TURNS {
        // Neither always follows the other.
        for at in if number % 2 == 0 { [0, 1] } else { [1, 0] } {
            turns[at].push(turn(at).await?);
        }
    }
    Ok(turns)
}

/// How a figure of some turns relates to that of the turns beside them: the median, pair by pair.
pub(crate) fn ratio<T>(over: &[T], under: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    let pairs = over.iter().zip(under);
    median(pairs.map(|(over, under)| figure(over) / figure(under)))
}

/// Of an even number, what is halfway between the two in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let (below, above) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    let middle = values.get(below).zip(values.get(above));
    middle.map_or(0.0, |(below, above)| f64::midpoint(*below, *above))
}
