//! Traces whose clock ticks.

use irouter_core::Picos;

use super::{Workload, WorkloadColumns};
use crate::error::{Result, SimError};
use crate::random::{Purpose, generator, index_below};

/// Spreads the arrivals of a trace whose clock ticks (every 3 s in the Mooncake traces) uniformly over the tick that each
/// stands for, by a seeded draw, and puts the rows in their new order.
///
/// # Errors
/// [`SimError::Field`] unless `tick` is above 0, [`SimError::Row`] when the last tick ends beyond the range of time.
pub fn spread_ticks(trace: &Workload, tick: Picos, seed: u64) -> Result<Workload> {
    let width = usize::try_from(tick.0).ok().filter(|&width| width > 0);
    let width = width.ok_or_else(|| SimError::field("tick", tick, "a time above 0"))?;
    let mut generator = generator(seed, Purpose::Ticks);
    let mut arrival = Vec::with_capacity(trace.len());
    for (row, &start) in trace.arrival().iter().enumerate() {
        let within = Picos(index_below(&mut generator, width).cast_signed() as i64);
        let spread = start.checked_add(within);
        arrival.push(
            spread.ok_or_else(|| SimError::row(row, "arrival", start, "a tick that ends within 106 days"))?,
        );
    }
    let mut rows: Vec<usize> = (0..trace.len()).collect();
    rows.sort_by_key(|&row| arrival[row]);
    let columns = trace.columns().gather(&rows);
    arrival.sort_unstable();
    Workload::new(WorkloadColumns { arrival, ..columns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_fill_their_tick_and_rows_stay_whole() {
        let rows = 3000;
        let arrival = (0..rows).map(|row| Picos::SECOND * (i64::from(row) / 1000 * 3)).collect();
        let tokens: Vec<u32> = (1..=rows).collect();
        let trace = Workload::new(WorkloadColumns {
            arrival,
            prompt_tokens: tokens.clone(),
            output_tokens: tokens,
            ..WorkloadColumns::default()
        })
        .unwrap();
        let spread = spread_ticks(&trace, Picos::SECOND * 3, 1).unwrap();
        assert_eq!(spread, spread_ticks(&trace, Picos::SECOND * 3, 1).unwrap());
        assert!((spread.arrival_cv().unwrap() - 1.0).abs() < 0.1, "as good as Poisson");
        let mut seen = [false; 3000];
        for (row, &arrival) in spread.arrival().iter().enumerate() {
            let source = spread.prompt_tokens()[row];
            assert_eq!(spread.output_tokens()[row], source);
            assert_eq!(arrival.0 / (Picos::SECOND.0 * 3), i64::from((source - 1) / 1000));
            seen[source as usize - 1] = true;
        }
        assert!(seen.iter().all(|&seen| seen));
        assert!(spread_ticks(&trace, Picos::ZERO, 1).is_err());
    }
}
