//! One tree.

use super::bins::{BINS, Bins};
use super::loss::sample_quantile;
use super::{BoostOptions, LEAF, Node};

/// The gradient of the pinball loss at the present residuals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gradient<'a> {
    pub(super) residuals: &'a [f64],
    pub(super) quantile: f64,
}

/// Rows of a node or a bin, and in halves how many of them have a target above their prediction: the gradient, which is
/// `quantile` for those and `quantile - 1` for the others, in whole numbers.
///
/// A target at its prediction counts as half above, so that targets that are all alike part from higher as well as from
/// lower ones when the prediction starts at them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    rows: u32,
    above_halves: u32,
}

impl Count {
    fn plus(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, above_halves: self.above_halves + other.above_halves }
    }

    fn minus(self, other: Self) -> Self {
        Self { rows: self.rows - other.rows, above_halves: self.above_halves - other.above_halves }
    }
}

/// Counts by bin, one column after the other.
type Histogram = Vec<[Count; BINS]>;

/// A split of a node.
#[derive(Clone, Copy, Debug)]
struct Split {
    gain: f64,
    column: usize,
    bin: usize,
}

/// Grows one tree.
pub(super) struct Grower<'a> {
    bins: &'a Bins,
    gradient: Gradient<'a>,
    options: &'a BoostOptions,
    columns: &'a [usize],
    scratch: Vec<u32>,
}

impl<'a> Grower<'a> {
    pub(super) fn new(
        bins: &'a Bins,
        gradient: Gradient<'a>,
        options: &'a BoostOptions,
        columns: &'a [usize],
    ) -> Self {
        Self { bins, gradient, options, columns, scratch: Vec::new() }
    }

    /// Appends a tree over `rows`, and returns its root.
    pub(super) fn grow(mut self, mut rows: Vec<u32>, nodes: &mut Vec<Node>) -> u32 {
        let root = reserve(nodes, 1);
        let histogram = self.histogram(&rows);
        self.node(root, &mut rows, 0, Some(histogram), nodes);
        root
    }

    /// Fills in a node and those below it. The histogram is absent where no split may follow.
    fn node(
        &mut self,
        node: u32,
        rows: &mut [u32],
        depth: u32,
        histogram: Option<Histogram>,
        nodes: &mut Vec<Node>,
    ) {
        let split = histogram.as_ref().and_then(|histogram| self.best_split(histogram));
        let (Some(split), Some(histogram)) = (split, histogram) else {
            nodes[node as usize] = Node { column: LEAF, value: self.leaf_value(rows), left: LEAF };
            return;
        };
        let Split { column, bin, .. } = split;
        let column_number = u32::try_from(column).unwrap_or(LEAF);
        let left = reserve(nodes, 2);
        nodes[node as usize] = Node { column: column_number, value: self.bins.edge(column, bin), left };
        let middle = self.partition(rows, column, bin);
        let (below, above) = rows.split_at_mut(middle);
        let [below_histogram, above_histogram] = self.children(below, above, depth + 1, histogram);
        self.node(left, below, depth + 1, below_histogram, nodes);
        self.node(left + 1, above, depth + 1, above_histogram, nodes);
    }

    /// Histograms of two siblings from their parent's: the smaller one is counted, the larger one is the rest.
    fn children(
        &self,
        below: &[u32],
        above: &[u32],
        depth: u32,
        mut parent: Histogram,
    ) -> [Option<Histogram>; 2] {
        if depth == self.options.max_depth {
            return [None, None];
        }
        let below_is_smaller = below.len() <= above.len();
        let smaller = self.histogram(if below_is_smaller { below } else { above });
        for (rest, counted) in parent.iter_mut().flatten().zip(smaller.iter().flatten()) {
            *rest = rest.minus(*counted);
        }
        if below_is_smaller { [Some(smaller), Some(parent)] } else { [Some(parent), Some(smaller)] }
    }

    fn histogram(&self, rows: &[u32]) -> Histogram {
        let counts = self.columns.iter().map(|&column| {
            let codes = self.bins.codes(column);
            let mut counts = [Count::default(); BINS];
            for &row in rows {
                let count = &mut counts[usize::from(codes[row as usize])];
                count.rows += 1;
                let residual = self.gradient.residuals[row as usize];
                count.above_halves += u32::from(residual > 0.0) + u32::from(residual >= 0.0);
            }
            counts
        });
        counts.collect()
    }

    /// The split with the largest gain; the first of equals, and none below the least gain.
    fn best_split(&self, histogram: &Histogram) -> Option<Split> {
        let all = histogram.first()?.iter().fold(Count::default(), |sum, count| sum.plus(*count));
        let least = self.options.min_leaf_rows;
        if all.rows < 2 * least {
            return None;
        }
        let mut best: Option<Split> = None;
        for (&column, counts) in self.columns.iter().zip(histogram) {
            let mut below = Count::default();
            for (bin, count) in counts.iter().enumerate().take(self.bins.count(column) - 1) {
                below = below.plus(*count);
                let above = all.minus(below);
                if below.rows < least || count.rows == 0 {
                    continue;
                }
                if above.rows < least {
                    break;
                }
                let gain = 0.5 * (self.score(below) + self.score(above) - self.score(all));
                if gain > best.map_or(self.options.min_gain, |best| best.gain) {
                    best = Some(Split { gain, column, bin });
                }
            }
        }
        best
    }

    /// Twice the loss that the best step of these rows' common value takes away, to the second order with a curvature of
    /// one a row.
    fn score(&self, count: Count) -> f64 {
        let gradient =
            0.5 * f64::from(count.above_halves) - (1.0 - self.gradient.quantile) * f64::from(count.rows);
        gradient * gradient / (f64::from(count.rows) + self.options.l2)
    }

    /// Puts the rows up to the bin before the others, both in their order; returns how many they are.
    fn partition(&mut self, rows: &mut [u32], column: usize, bin: usize) -> usize {
        let codes = self.bins.codes(column);
        self.scratch.clear();
        let mut below = 0;
        for index in 0..rows.len() {
            let row = rows[index];
            if usize::from(codes[row as usize]) <= bin {
                rows[below] = row;
                below += 1;
            } else {
                self.scratch.push(row);
            }
        }
        rows[below..].copy_from_slice(&self.scratch);
        below
    }

    #[expect(clippy::cast_possible_truncation, reason = "a leaf needs no more digits than a feature")]
    fn leaf_value(&self, rows: &[u32]) -> f32 {
        let mut residuals: Vec<f64> = rows.iter().map(|&row| self.gradient.residuals[row as usize]).collect();
        (self.options.learning_rate * sample_quantile(&mut residuals, self.gradient.quantile)) as f32
    }
}

/// Room for `count` nodes; returns the number of the first.
fn reserve(nodes: &mut Vec<Node>, count: usize) -> u32 {
    let first = u32::try_from(nodes.len()).unwrap_or(LEAF);
    nodes.resize(nodes.len() + count, Node { column: LEAF, value: 0.0, left: LEAF });
    first
}
