//! Features as numbers of bins, so that a split is found in a histogram.

use super::table::Table;

/// Bins of a column.
pub(super) const BINS: usize = 64;

/// A table as bins.
#[derive(Clone, Debug)]
pub(super) struct Bins {
    columns: Vec<Column>,
}

#[derive(Clone, Debug)]
struct Column {
    /// Upper ends of all bins but the last, ascending.
    edges: Vec<f32>,
    /// Bin of each row.
    codes: Vec<u8>,
}

impl Bins {
    pub(super) fn new(table: &Table) -> Self {
        Self { columns: (0..table.columns()).map(|column| Column::new(table, column)).collect() }
    }

    /// Bin of each row.
    pub(super) fn codes(&self, column: usize) -> &[u8] {
        &self.columns[column].codes
    }

    /// Upper end of a bin that is not the last of its column.
    pub(super) fn edge(&self, column: usize, bin: usize) -> f32 {
        self.columns[column].edges[bin]
    }

    /// Bins of a column.
    pub(super) fn count(&self, column: usize) -> usize {
        self.columns[column].edges.len() + 1
    }
}

impl Column {
    fn new(table: &Table, column: usize) -> Self {
        let values: Vec<f32> = (0..table.rows()).map(|row| table.row(row)[column]).collect();
        let edges = edges(values.clone());
        #[expect(clippy::cast_possible_truncation, reason = "below the number of bins")]
        let codes = values.iter().map(|value| edges.partition_point(|edge| edge < value) as u8).collect();
        Self { edges, codes }
    }
}

/// Ends of bins that hold about as many values each, half way between values that differ.
fn edges(mut values: Vec<f32>) -> Vec<f32> {
    values.sort_unstable_by(f32::total_cmp);
    let sorted = values.clone();
    values.dedup();
    let distinct = values.len();
    let lower: Vec<usize> = if distinct <= BINS {
        (0..distinct).collect()
    } else {
        let ends = (1..BINS).map(|bin| sorted[bin * sorted.len() / BINS]);
        let mut ends: Vec<usize> = ends.map(|end| values.partition_point(|value| *value < end)).collect();
        ends.dedup();
        ends
    };
    // The largest value ends no bin: nothing is above it.
    let lower = lower.into_iter().filter(|&index| index + 1 < distinct);
    lower.map(|index| f32::midpoint(values[index], values[index + 1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bins(values: impl Iterator<Item = f32>) -> Bins {
        let mut table = Table::new(1).unwrap();
        values.for_each(|value| table.push(&[value], 0.0).unwrap());
        Bins::new(&table)
    }

    #[test]
    fn few_values_get_a_bin_each() {
        let bins = bins([3.0, 1.0, 3.0, 2.0].into_iter());
        assert_eq!(bins.codes(0), [2, 0, 2, 1]);
        assert_eq!((bins.count(0), bins.edge(0, 0), bins.edge(0, 1)), (3, 1.5, 2.5));
    }

    #[test]
    fn many_values_share_bins_of_about_equal_size() {
        let bins = bins((0u16..6400).map(f32::from));
        assert_eq!(bins.count(0), BINS);
        for code in 0..64 {
            let size = bins.codes(0).iter().map(|&other| u32::from(other == code)).sum::<u32>();
            assert!((99..=101).contains(&size), "bin {code}: {size}");
        }
    }

    #[test]
    fn a_constant_has_one_bin() {
        assert_eq!(bins([7.0; 9].into_iter()).count(0), 1);
    }
}
