//! How many connections are open, in all and from each address.
//!
//! Bookkeeping only: accepting and closing is `serve`'s business.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The number of open connections of one server. Clones show the same figure.
#[derive(Clone, Debug, Default)]
pub struct OpenConnections(Arc<AtomicU64>);

impl OpenConnections {
    /// How many are open now.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Decides which connections may stay.
#[derive(Debug)]
pub(crate) struct Admission {
    open: OpenConnections,
    per_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    connections_max: usize,
    per_address_max: usize,
}

/// Held for as long as its connection is open.
#[derive(Debug)]
pub(crate) struct Admitted {
    open: OpenConnections,
    per_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Admission {
    pub(crate) fn new(
        open: OpenConnections,
        connections_max: usize,
        per_address_max: usize,
    ) -> Self {
        Self {
            open,
            per_address: Arc::default(),
            connections_max,
            per_address_max,
        }
    }

    /// A place for one more connection from `address`, or None when there is none left.
    pub(crate) fn admit(&self, address: IpAddr) -> Option<Admitted> {
        let address = address.to_canonical();
        let mut per_address = self
            .per_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let in_all: usize = per_address.values().sum();
        let from_here = per_address.get(&address).copied().unwrap_or(0);
        if in_all >= self.connections_max || from_here >= self.per_address_max {
            return None;
        }
        per_address.insert(address, from_here + 1);
        self.open.0.fetch_add(1, Ordering::Relaxed);
        Some(Admitted {
            open: self.open.clone(),
            per_address: self.per_address.clone(),
            address,
        })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut per_address = self
            .per_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = per_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                per_address.remove(&self.address);
            }
        }
        self.open.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_per_address_and_come_back() {
        let open = OpenConnections::default();
        let admission = Admission::new(open.clone(), 3, 2);
        let here = IpAddr::from([127, 0, 0, 1]);
        let there = IpAddr::from([10, 0, 0, 1]);
        let first = admission.admit(here).expect("free");
        let _second = admission.admit(here).expect("free");
        assert!(admission.admit(here).is_none(), "two per address");
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().expect("an address");
        assert!(
            admission.admit(mapped).is_none(),
            "the same address written as IPv6"
        );
        let _third = admission.admit(there).expect("free");
        assert!(admission.admit(there).is_none(), "three in all");
        assert_eq!(open.count(), 3);
        drop(first);
        assert_eq!(open.count(), 2);
        assert!(admission.admit(here).is_some());
    }
}
