//! One request over the coming decode steps.

use crate::request::Request;

/// Future decode steps at which a forecast is taken: close together where much changes.
pub const GRID: [u32; 24] = [
    0, 8, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1024, 1536,
    2048, 4096,
];
pub(super) const POINTS: usize = GRID.len();

/// Steps from each point of [`GRID`] to the next; from the last on as many as before it.
pub(super) const WIDTHS: [f64; POINTS] = {
    let mut widths = [4096.0; POINTS];
    let mut point = 1;
    while point < POINTS {
        widths[point - 1] = (GRID[point] - GRID[point - 1]) as f64;
        point += 1;
    }
    widths
};

/// Chance of being there that is taken as none. What is still to come then counts as steps all the same.
const NEGLIGIBLE: f64 = 1e-3;

/// When a request is there, and what it holds.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    /// First point of [`GRID`] at which it is there, and the point after the last one.
    pub(super) first: usize,
    pub(super) end: usize,
    /// `S(t)`: probability that it is there, at each point.
    pub(super) there: [f64; POINTS],
    /// `1 - S(t)`: probability that it has been there and is gone, while it may be there.
    pub(super) gone: [f64; POINTS],
    /// Expected steps with it, from each point to the next. The sum is what it is expected to still produce.
    pub(super) steps: [f64; POINTS],
    /// Tokens of context at step 0 of [`GRID`], from which it grows by one a step.
    pub(super) context: f64,
}

impl Curve {
    /// A request that has produced `produced` tokens and is there from step `start` on.
    pub(super) fn new(request: &Request, produced: u32, start: u32) -> Self {
        let first = GRID.partition_point(|&step| step < start).min(POINTS - 1);
        let mut curve = Self {
            first,
            end: POINTS,
            there: [0.0; POINTS],
            gone: [0.0; POINTS],
            steps: [0.0; POINTS],
            context: f64::from(request.prompt_tokens) + f64::from(produced) - f64::from(start),
        };
        let points = GRID[first..].iter().map(|&step| step.saturating_sub(start));
        let mut ahead =
            request.predicted.outlasts(produced, request.max_tokens, std::iter::once(0).chain(points));
        let mut left = ahead.next().map_or(0.0, |ahead| ahead.tokens);
        for (point, ahead) in (first..POINTS).zip(ahead) {
            curve.steps[point.saturating_sub(1)] += left - ahead.tokens;
            left = ahead.tokens;
            if ahead.chance < NEGLIGIBLE {
                curve.end = point;
                break;
            }
            curve.there[point] = ahead.chance;
            curve.gone[point] = 1.0 - ahead.chance;
        }
        // What is left beyond the last point, or too small to be looked at.
        curve.steps[curve.end.saturating_sub(1)] += left;
        curve
    }

    /// The points between which it may be there.
    pub(super) fn spans(&self) -> std::ops::Range<usize> {
        self.first.saturating_sub(1)..self.end.max(1)
    }

    /// Tokens that it holds in the KV cache at a point, if there; `slack` for its last block.
    pub(super) fn held(&self, point: usize, slack: f64) -> f64 {
        self.context + f64::from(GRID[point]) + slack
    }

    /// Its mean context from the point to the next.
    pub(super) fn mean_context(&self, point: usize) -> f64 {
        self.context + f64::from(GRID[point]) + 0.5 * WIDTHS[point]
    }
}
