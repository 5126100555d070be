//! The central queue: who is next.
//!
//! Higher priority goes first. Among equal priorities tenants share by weight: next is the tenant with the least
//! work served per weight. Within a tenant the policy's order key decides, lower first, equal keys by arrival. But no
//! request is overtaken, among equal priorities, by more than a set amount of predicted work: when the next dispatch
//! out of turn would exceed that, the oldest request is the only candidate.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::ids::RequestKey;
use crate::request::TenantId;

/// How many of the longest waiting requests are looked at for some of one tenant: others may come first.
const OLDEST_LOOKED_AT: usize = 64;

/// A finite or infinite order key with a total order.
#[derive(Clone, Copy, Debug, PartialEq)]
struct OrderKey(f64);

impl Eq for OrderKey {}

impl PartialOrd for OrderKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OrderKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: RequestKey,
    order: OrderKey,
    tenant: TenantId,
    work_seconds: f64,
    /// What the level's `overtaking_seconds` was when the request arrived.
    mark_seconds: f64,
}

/// The requests of one priority.
#[derive(Clone, Debug, Default)]
struct Level {
    /// By arrival.
    entries: BTreeMap<u64, Entry>,
    /// By tenant and the policy's order.
    orders: BTreeMap<TenantId, BTreeSet<(OrderKey, u64)>>,
    /// Work dispatched while an older request waited, ever. What has overtaken a request is at most the growth since its
    /// arrival, so that one sum bounds it for all.
    overtaking_seconds: f64,
}

/// The place of a request in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seat {
    priority: i32,
    arrival: u64,
}

/// Requests that wait at the router.
#[derive(Clone, Debug)]
pub struct Queue {
    levels: BTreeMap<Reverse<i32>, Level>,
    /// Seats by the ledger slot of the request.
    seats: Vec<Option<Seat>>,
    arrivals: u64,
    length: usize,
    /// Work of all of them.
    waiting_seconds: f64,
    bound_seconds: f64,
    weights: BTreeMap<TenantId, f64>,
    /// Work served per weight since the queue was last empty.
    served: BTreeMap<TenantId, f64>,
    /// Work served per weight of the tenant served last: a tenant that comes back starts there.
    served_floor: f64,
}

impl Queue {
    /// An empty queue in which a request is overtaken by at most `bound_seconds` of work. Tenants without a weight have
    /// weight 1.
    ///
    /// # Errors
    /// [`Error::Field`] for a negative bound or a weight that is not positive.
    pub fn new(bound_seconds: f64, weights: BTreeMap<TenantId, f64>) -> Result<Self> {
        if bound_seconds.is_nan() || bound_seconds < 0.0 {
            return Err(Error::field("overtaking_seconds", bound_seconds, "zero or more"));
        }
        if let Some((tenant, weight)) =
            weights.iter().find(|(_, weight)| !(weight.is_finite() && **weight > 0.0))
        {
            return Err(Error::field(format!("tenant_weights.{}", tenant.0), weight, "a positive number"));
        }
        Ok(Self {
            levels: BTreeMap::new(),
            seats: Vec::new(),
            arrivals: 0,
            length: 0,
            waiting_seconds: 0.0,
            bound_seconds,
            weights,
            served: BTreeMap::new(),
            served_floor: 0.0,
        })
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Predicted work of those that wait, in seconds.
    pub fn waiting_seconds(&self) -> f64 {
        self.waiting_seconds
    }

    /// Adds a request; `order` is the policy's key.
    pub(crate) fn insert(
        &mut self,
        key: RequestKey,
        priority: i32,
        tenant: TenantId,
        order: f64,
        work_seconds: f64,
    ) {
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.length += 1;
        self.waiting_seconds += work_seconds;
        if self.seats.len() <= key.index() {
            self.seats.resize(key.index() + 1, None);
        }
        self.seats[key.index()] = Some(Seat { priority, arrival });
        let level = self.levels.entry(Reverse(priority)).or_default();
        let order = OrderKey(order);
        let entry = Entry { key, order, tenant, work_seconds, mark_seconds: level.overtaking_seconds };
        level.entries.insert(arrival, entry);
        level.orders.entry(tenant).or_default().insert((order, arrival));
        let floor = self.served_floor;
        self.served.entry(tenant).and_modify(|served| *served = served.max(floor)).or_insert(floor);
    }

    /// Takes out a request that goes to an instance. `share` of its work (one over the ready instances) delays the others.
    pub(crate) fn dispatched(&mut self, key: RequestKey, share: f64) {
        let Some((seat, entry)) = self.remove(key) else { return };
        let work = entry.work_seconds;
        let weight = self.weights.get(&entry.tenant).copied().unwrap_or(1.0);
        if let Some(served) = self.served.get_mut(&entry.tenant) {
            self.served_floor = self.served_floor.max(*served);
            *served += work / weight;
        }
        if self.length == 0 {
            // Fairness is among those who wait: an empty queue starts afresh.
            self.served.clear();
            self.served_floor = 0.0;
        }
        if let Some(level) = self.levels.get_mut(&Reverse(seat.priority))
            && level.entries.first_key_value().is_some_and(|(&oldest, _)| oldest < seat.arrival)
        {
            level.overtaking_seconds += work * share;
        }
    }

    /// Takes out a request, if it waits.
    pub(crate) fn cancelled(&mut self, key: RequestKey) {
        self.remove(key);
    }

    fn remove(&mut self, key: RequestKey) -> Option<(Seat, Entry)> {
        let seat = self.seats.get_mut(key.index())?.take()?;
        let level = self.levels.get_mut(&Reverse(seat.priority))?;
        let entry = level.entries.remove(&seat.arrival)?;
        if let Some(order) = level.orders.get_mut(&entry.tenant) {
            order.remove(&(entry.order, seat.arrival));
            if order.is_empty() {
                level.orders.remove(&entry.tenant);
            }
        }
        self.length -= 1;
        self.waiting_seconds -= entry.work_seconds;
        if self.length == 0 {
            // Rounding errors do not outlast the queue.
            self.waiting_seconds = 0.0;
        }
        Some((seat, entry))
    }

    /// The request that has waited longest, of any priority.
    pub(crate) fn oldest(&self) -> Option<RequestKey> {
        let oldest = self.levels.values().filter_map(|level| level.entries.first_key_value());
        oldest.min_by_key(|(arrival, _)| **arrival).map(|(_, entry)| entry.key)
    }

    /// The first `limit` requests that may go next, and after them the `seniors` of the same priority and tenant that have waited
    /// longest, of which some may come twice.
    pub(crate) fn shortlist(
        &self,
        limit: usize,
        seniors: usize,
    ) -> impl Iterator<Item = RequestKey> + use<'_> {
        let level = self.levels.values().find(|level| !level.entries.is_empty());
        let tenant = level.and_then(|level| {
            level
                .orders
                .keys()
                .min_by(|left, right| self.served_by(**left).total_cmp(&self.served_by(**right)))
        });
        let order = level
            .zip(tenant)
            .and_then(|(level, tenant)| level.orders.get(tenant).map(|order| (level, order)));
        order.into_iter().flat_map(move |(level, order)| {
            let oldest = level.entries.first_key_value();
            let overdue = oldest.filter(|(_, oldest)| {
                // The next dispatch of anything else adds its own work; the head's stands for it.
                let next = order.first().and_then(|(_, arrival)| level.entries.get(arrival));
                let next_seconds = next.map_or(0.0, |entry| entry.work_seconds);
                next.is_some_and(|entry| entry.key != oldest.key)
                    && level.overtaking_seconds - oldest.mark_seconds + next_seconds > self.bound_seconds
            });
            let in_order = order.iter().filter_map(|(_, arrival)| level.entries.get(arrival));
            let of_tenant = level.entries.values().take(OLDEST_LOOKED_AT);
            let of_tenant = of_tenant.filter(move |entry| Some(entry.tenant) == tenant.copied());
            let (limit, seniors) = if overdue.is_some() { (0, 0) } else { (limit, seniors) };
            overdue
                .map(|(_, entry)| entry.key)
                .into_iter()
                .chain(in_order.map(|entry| entry.key).take(limit))
                .chain(of_tenant.map(|entry| entry.key).take(seniors))
        })
    }

    fn served_by(&self, tenant: TenantId) -> f64 {
        self.served.get(&tenant).copied().unwrap_or(self.served_floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u32) -> RequestKey {
        RequestKey { slot, generation: 0 }
    }

    fn drain(queue: &mut Queue) -> Vec<u32> {
        let mut order = Vec::new();
        loop {
            let Some(next) = queue.shortlist(1, 0).next() else { return order };
            queue.dispatched(next, 1.0);
            order.push(next.slot);
        }
    }

    #[test]
    fn priority_goes_before_order_and_order_before_arrival() {
        let mut queue = Queue::new(f64::INFINITY, BTreeMap::new()).unwrap();
        for (slot, priority, order) in [(0, 0, 2.0), (1, 0, 1.0), (2, 5, 9.0), (3, 0, 1.0)] {
            queue.insert(key(slot), priority, TenantId(0), order, 1.0);
        }
        assert_eq!(drain(&mut queue), [2, 1, 3, 0]);
    }

    #[test]
    fn no_request_is_overtaken_by_more_work_than_the_bound() {
        for bound in [0.0, 1.0, 3.0, 7.5] {
            let mut queue = Queue::new(bound, BTreeMap::new()).unwrap();
            queue.insert(key(0), 0, TenantId(0), 100.0, 1.0);
            for slot in 1..20 {
                queue.insert(key(slot), 0, TenantId(0), f64::from(slot), 1.0);
            }
            let order = drain(&mut queue);
            let overtaken = order.iter().take_while(|&&slot| slot != 0).count() as f64;
            assert!(overtaken <= bound && bound < overtaken + 1.0, "bound {bound}: overtaken by {overtaken}");
        }
    }

    #[test]
    fn tenants_share_by_weight() {
        let weights = BTreeMap::from([(TenantId(1), 1.0), (TenantId(2), 3.0)]);
        let mut queue = Queue::new(f64::INFINITY, weights).unwrap();
        for slot in 0..80 {
            queue.insert(key(slot), 0, TenantId(1 + slot % 2), f64::from(slot), 1.0);
        }
        let served: Vec<u32> = drain(&mut queue).into_iter().take(40).filter(|slot| slot % 2 == 1).collect();
        assert_eq!(served.len(), 30, "three quarters go to the tenant of weight 3");
    }

    #[test]
    fn a_tenant_that_was_idle_gets_no_credit_for_it() {
        let mut queue = Queue::new(f64::INFINITY, BTreeMap::new()).unwrap();
        for slot in 10..30 {
            queue.insert(key(slot), 0, TenantId(1), f64::from(slot), 1.0);
        }
        for slot in 10..20 {
            queue.dispatched(key(slot), 1.0);
        }
        for slot in 0..10 {
            queue.insert(key(slot), 0, TenantId(1 + slot % 2), f64::from(slot), 1.0);
        }
        let first: Vec<u32> = drain(&mut queue).into_iter().take(4).map(|slot| slot % 2).collect();
        assert_eq!(first.iter().sum::<u32>(), 2, "two of each among the first four: {first:?}");
    }

    #[test]
    fn an_empty_queue_forgets_its_tenants() {
        let mut queue = Queue::new(30.0, BTreeMap::new()).unwrap();
        for tenant in 0..1000 {
            queue.insert(key(0), 0, TenantId(tenant), 0.0, 1.0);
            drain(&mut queue);
        }
        assert!(queue.served.is_empty());
    }

    #[test]
    fn a_shortlist_ends_with_those_that_have_waited_longest() {
        let mut queue = Queue::new(7.0, BTreeMap::new()).unwrap();
        for (slot, tenant, order) in [(0, 0, 9.0), (1, 0, 8.0), (2, 1, 7.0), (3, 0, 1.0), (4, 0, 2.0)] {
            queue.insert(key(slot), 0, TenantId(tenant), order, 3.0);
        }
        let slots = |queue: &Queue, limit, seniors| -> Vec<u32> {
            queue.shortlist(limit, seniors).map(|key| key.slot).collect()
        };
        assert_eq!(slots(&queue, 2, 2), [3, 4, 0, 1]);
        assert_eq!(slots(&queue, 1, 0), [3]);
        assert!((queue.waiting_seconds() - 15.0).abs() < 1e-12);
        queue.dispatched(key(3), 1.0);
        // The other tenant has been served less.
        assert_eq!(slots(&queue, 2, 2), [2, 2]);
        queue.dispatched(key(2), 1.0);
        // A third would be nine seconds of overtaking.
        assert_eq!(slots(&queue, 2, 2), [0]);
        for slot in [0, 1, 4] {
            queue.cancelled(key(slot));
        }
        assert!(queue.waiting_seconds() <= 0.0);
    }

    #[test]
    fn bad_configuration_is_named() {
        assert!(Queue::new(-1.0, BTreeMap::new()).unwrap_err().to_string().contains("overtaking_seconds"));
        let weights = BTreeMap::from([(TenantId(7), 0.0)]);
        assert!(Queue::new(1.0, weights).unwrap_err().to_string().contains("tenant_weights.7"));
    }
}
