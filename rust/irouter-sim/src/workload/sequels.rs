//! Requests that follow the ends of others: turns of conversations, and clients that wait for their answers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use irouter_core::Picos;
use irouter_core::hash::mix;

use super::{Workload, WorkloadColumns};
use crate::error::Result;
use crate::random::{Purpose, exponential, generator};

/// A closed loop: a fixed number of clients, each of which thinks, asks, and waits for the end before it thinks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clients {
    /// How many, at least 1.
    pub count: u32,
    /// Mean of the exponential time between the end of a client's request or conversation and its next one.
    pub think_time: Picos,
}

/// Which row follows which, and after what pause: the same for every policy, which only decides when.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequels {
    /// Rows that follow none, with the times at which they arrive.
    starts: Vec<(Picos, usize)>,
    sequel: Vec<Option<usize>>,
    /// Pause before each row, from the end of the one that it follows.
    pause: Vec<Picos>,
}

impl Sequels {
    /// The sequels of `workload`; `None` where its arrivals depend on nothing.
    ///
    /// The turns of a conversation follow one another. With clients, each conversation (or single request), in order, belongs
    /// to the client that has the fewest requests so far, and each client goes through its own one after the other,
    /// with think times by `seed` and its number.
    pub fn new(workload: &Workload, clients: Option<Clients>, seed: u64) -> Option<Self> {
        if clients.is_none() && !workload.is_conversations() {
            return None;
        }
        let rows = workload.len();
        let columns = workload.columns();
        let mut sequels = Self {
            starts: Vec::new(),
            sequel: vec![None; rows],
            pause: columns.think_time.clone().unwrap_or_else(|| vec![Picos::ZERO; rows]),
        };
        let mut conversations: Vec<Vec<usize>> = Vec::new();
        let mut numbers: BTreeMap<u64, usize> = BTreeMap::new();
        for row in 0..rows {
            let session = columns.session.as_ref().filter(|_| workload.is_conversations());
            let number = session.map_or(conversations.len(), |sessions| {
                *numbers.entry(sessions[row]).or_insert(conversations.len())
            });
            match conversations.get_mut(number) {
                Some(turns) => {
                    sequels.sequel[turns[turns.len() - 1]] = Some(row);
                    turns.push(row);
                }
                None => conversations.push(vec![row]),
            }
        }
        if let Some(clients) = clients {
            sequels.share_out(&conversations, clients, seed);
        } else {
            let start = |turns: &Vec<usize>| (workload.arrival()[turns[0]], turns[0]);
            sequels.starts = conversations.iter().map(start).collect();
        }
        Some(sequels)
    }

    /// Gives each conversation to a client.
    fn share_out(&mut self, conversations: &[Vec<usize>], clients: Clients, seed: u64) {
        struct Client {
            thinking: rand_chacha::ChaCha8Rng,
            last: Option<usize>,
        }
        let client = |number| Client {
            thinking: generator(mix(seed, u64::from(number)), Purpose::Clients),
            last: None,
        };
        let mut states: Vec<Client> = (0..clients.count).map(client).collect();
        let mut by_requests: BinaryHeap<Reverse<(usize, usize)>> =
            (0..states.len()).map(|number| Reverse((0, number))).collect();
        for turns in conversations {
            let Some(Reverse((requests, number))) = by_requests.pop() else { return };
            by_requests.push(Reverse((requests + turns.len(), number)));
            let Client { thinking, last } = &mut states[number];
            let first = turns[0];
            let seconds = clients.think_time.as_seconds() * exponential(thinking);
            self.pause[first] = Picos::from_seconds(seconds).unwrap_or(Picos::MAX);
            match last.replace(turns[turns.len() - 1]) {
                Some(before) => self.sequel[before] = Some(first),
                // Clients begin by thinking, so that they do not all ask at once.
                None => self.starts.push((self.pause[first], first)),
            }
        }
    }

    /// Rows that follow none, with the times at which they arrive.
    pub fn starts(&self) -> &[(Picos, usize)] {
        &self.starts
    }

    /// The row that follows `row`, and how long after its end.
    pub fn after(&self, row: usize) -> Option<(Picos, usize)> {
        self.sequel[row].map(|next| (self.pause[next], next))
    }

    /// The workload with its rows in the order in which they would arrive if each took `duration`, and at those times; and the
    /// sequels of its rows. So the first rows come first, and the clients' last ones at about the same time, under
    /// any policy.
    ///
    /// # Errors
    /// Those of [`Workload::new`].
    pub fn in_expected_order(
        &self,
        workload: &Workload,
        duration: impl Fn(usize) -> Picos,
    ) -> Result<(Workload, Self)> {
        let mut upcoming: BinaryHeap<Reverse<(Picos, usize)>> =
            self.starts.iter().map(|&start| Reverse(start)).collect();
        let (mut arrival, mut order) = (Vec::new(), Vec::new());
        let mut position = vec![0; workload.len()];
        while let Some(Reverse((at, row))) = upcoming.pop() {
            position[row] = order.len();
            arrival.push(at);
            order.push(row);
            if let Some((pause, next)) = self.after(row) {
                upcoming.push(Reverse((at.saturating_add(duration(row)).saturating_add(pause), next)));
            }
        }
        let columns = WorkloadColumns { arrival, ..workload.columns().gather(&order) };
        let sequels = Self {
            starts: self.starts.iter().map(|&(at, row)| (at, position[row])).collect(),
            sequel: order.iter().map(|&row| self.sequel[row].map(|next| position[next])).collect(),
            pause: order.iter().map(|&row| self.pause[row]).collect(),
        };
        Ok((Workload::new(columns)?, sequels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: i64) -> Picos {
        Picos::SECOND * seconds
    }

    /// Three conversations that begin at 0, 1 and 2 s, of three, one and two turns.
    fn conversations() -> Workload {
        Workload::new(WorkloadColumns {
            arrival: [0, 0, 0, 1, 2, 2].map(seconds).to_vec(),
            prompt_tokens: vec![10; 6],
            output_tokens: vec![1, 2, 3, 4, 5, 6],
            session: Some(vec![7, 7, 7, 4, 9, 9]),
            think_time: Some([0, 10, 20, 0, 0, 3].map(seconds).to_vec()),
            ..WorkloadColumns::default()
        })
        .unwrap()
    }

    #[test]
    fn turns_follow_one_another_and_conversations_do_not() {
        let sequels = Sequels::new(&conversations(), None, 0).unwrap();
        assert_eq!(sequels.starts(), [(seconds(0), 0), (seconds(1), 3), (seconds(2), 4)]);
        assert_eq!(sequels.after(0), Some((seconds(10), 1)));
        assert_eq!(
            (sequels.after(2), sequels.after(3), sequels.after(4)),
            (None, None, Some((seconds(3), 5)))
        );
        let plain = WorkloadColumns { think_time: None, ..conversations().into_columns() };
        assert_eq!(Sequels::new(&Workload::new(plain).unwrap(), None, 0), None);
    }

    #[test]
    fn a_conversation_goes_to_the_client_with_the_fewest_requests() {
        let clients = Clients { count: 2, think_time: seconds(5) };
        let sequels = Sequels::new(&conversations(), Some(clients), 1).unwrap();
        let first_rows: Vec<usize> = sequels.starts().iter().map(|&(_, row)| row).collect();
        assert_eq!(first_rows, [0, 3]);
        // The second client has one request, the first three.
        assert_eq!(sequels.after(3).map(|(_, row)| row), Some(4));
        assert_eq!(sequels.after(2), None);
        assert_ne!(sequels.after(3), Sequels::new(&conversations(), Some(clients), 2).unwrap().after(3));
    }

    #[test]
    fn rows_in_expected_order_keep_their_sequels() {
        let workload = conversations();
        let sequels = Sequels::new(&workload, None, 0).unwrap();
        let (sorted, moved) = sequels.in_expected_order(&workload, |_| seconds(1)).unwrap();
        // Turns at 0, 11, 32 s; at 1 s; at 2 and 6 s.
        assert_eq!(sorted.output_tokens(), [1, 4, 5, 6, 2, 3]);
        assert_eq!(sorted.arrival(), [0, 1, 2, 6, 11, 32].map(seconds));
        assert_eq!(moved.starts(), [(seconds(0), 0), (seconds(1), 1), (seconds(2), 2)]);
        assert_eq!((moved.after(0), moved.after(4)), (Some((seconds(10), 4)), Some((seconds(20), 5))));
        assert_eq!((moved.after(1), moved.after(2)), (None, Some((seconds(3), 3))));
    }
}
