//! How many connections may be open, in all and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, getrlimit};

use crate::base::limits;

/// The room for connections.
#[derive(Debug)]
pub(super) struct Room {
    most: usize,
    most_per_address: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Only addresses that have a connection: as bounded as they are.
    by_address: HashMap<IpAddr, usize>,
}

/// A connection's place. Dropping it frees it.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    address: IpAddr,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// No more connections in all.
    All,
    /// No more from this address.
    Address,
}

impl Room {
    /// Room for `most` connections, or for as many as the process may open files for.
    pub(super) fn new(most: usize, most_per_address: usize) -> Self {
        let files = getrlimit(Resource::Nofile).current;
        let possible = files.map_or(most, |files| {
            usize::try_from(connections_within(files)).unwrap_or(usize::MAX)
        });
        if possible < most {
            tracing::info!(
                connections = possible,
                wanted = most,
                "the open-file limit leaves room for fewer connections"
            );
        }
        Self {
            most: most.min(possible),
            most_per_address,
            taken: Mutex::default(),
        }
    }

    /// A place for a connection from `address`, if there is one.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        let address = neighbourhood(address);
        let mut taken = self.taken();
        if taken.all >= self.most {
            return Err(Full::All);
        }
        let here = taken.by_address.entry(address).or_default();
        if *here >= self.most_per_address {
            return Err(Full::Address);
        }
        *here += 1;
        taken.all += 1;
        let room = Arc::clone(self);
        Ok(Place { room, address })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        taken.all -= 1;
        if let Some(here) = taken.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

/// How many of `files` descriptors connections may have: what the reserve leaves, but at least half.
fn connections_within(files: u64) -> u64 {
    files
        .saturating_sub(limits::DESCRIPTORS_KEPT)
        .max(files / 2)
        .max(1)
}

/// Who counts as one address: in IPv6 whoever has one has the 2^64 of its network.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(most: usize, most_per_address: usize) -> Arc<Room> {
        Arc::new(Room {
            most,
            most_per_address,
            taken: Mutex::default(),
        })
    }

    #[test]
    fn a_place_that_is_left_is_free_again() {
        let room = room(3, 2);
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = room.enter(a).unwrap();
        let _second = room.enter(a).unwrap();
        assert_eq!(room.enter(a).unwrap_err(), Full::Address);
        let _third = room.enter(b).unwrap();
        assert_eq!(room.enter(b).unwrap_err(), Full::All);
        drop(first);
        let _again = room.enter(a).unwrap();
        assert_eq!(room.enter(b).unwrap_err(), Full::All);
    }

    #[test]
    fn addresses_that_have_left_are_forgotten() {
        let room = room(3, 2);
        drop(room.enter(IpAddr::from([10, 0, 0, 1])).unwrap());
        assert!(room.taken().by_address.is_empty());
    }

    #[test]
    fn one_network_counts_as_one_address() {
        let same = [
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
        ];
        for (one, other, equal) in same {
            let of = |text: &str| neighbourhood(text.parse().unwrap());
            assert_eq!(of(one) == of(other), equal, "{one} {other}");
        }
    }

    #[test]
    fn connections_leave_descriptors_to_the_rest() {
        for (files, connections) in [(0, 1), (64, 32), (1024, 768), (65_536, 65_280)] {
            assert_eq!(connections_within(files), connections, "{files}");
        }
    }
}
