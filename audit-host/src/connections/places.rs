//! Limits how many of something clients have, in total and by address: open connections, or
//! actions that run.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Why a client gets no [`Place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceRefusal {
    /// All places are taken.
    Full,
    /// The client has as many places as it may have.
    Address,
}

/// Places for clients, each of which leaves some to others.
#[derive(Debug)]
pub struct Places {
    gauge: &'static str,
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// A taken place. Dropping it frees the place.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    client: IpAddr,
}

impl Places {
    /// Creates `most` places. The gauge of this name shows how many are taken.
    pub fn new(gauge: &'static str, most: usize) -> Places {
        Places { gauge, most, taken: Mutex::default() }
    }

    /// Takes a place. A client with a limit takes no more than are still free: one that floods
    /// gets a half, three get a quarter each, and others still find a place. Addresses of IPv6 in
    /// one /64 are one client.
    ///
    /// # Errors
    ///
    /// If no place is free, or the client has as many as it may have.
    pub fn take(
        self: &Arc<Self>,
        address: IpAddr,
        most_of_client: Option<usize>,
    ) -> Result<Place, PlaceRefusal> {
        let client = client_of(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.most.saturating_sub(taken.all);
        if free == 0 {
            return Err(PlaceRefusal::Full);
        }
        let of_client = taken.by_client.get(&client).copied().unwrap_or(0);
        if most_of_client.is_some_and(|most| of_client >= most.min(free)) {
            return Err(PlaceRefusal::Address);
        }
        taken.by_client.insert(client, of_client + 1);
        taken.all += 1;
        metrics::gauge!(self.gauge).increment(1.0);
        Ok(Place { places: Arc::clone(self), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(of_client) = taken.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                taken.by_client.remove(&self.client);
            }
        }
        metrics::gauge!(self.places.gauge).decrement(1.0);
    }
}

/// The unit by which clients are limited: an IPv4 address, or the /64 of an IPv6 address, since a
/// client usually has at least a /64.
pub(crate) fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_total_and_by_client() {
        let places = Arc::new(Places::new("audit_connections", 5));
        let take = |address: &str| places.take(address.parse().unwrap(), Some(2));
        let first = take("2001:db8::1").unwrap();
        let _second = take("2001:db8::2").unwrap();
        assert_eq!(take("2001:db8::3").unwrap_err(), PlaceRefusal::Address);
        let _other = take("192.0.2.1").unwrap();
        let _mapped = take("::ffff:192.0.2.1").unwrap();
        let _last = take("192.0.2.2").unwrap();
        assert_eq!(take("2001:db8:0:1::1").unwrap_err(), PlaceRefusal::Full);
        assert_eq!(take("192.0.2.1").unwrap_err(), PlaceRefusal::Full);
        drop(first);
        assert_eq!(take("2001:db8::1").unwrap_err(), PlaceRefusal::Address);
        let _again = take("192.0.2.3").unwrap();
        assert_eq!(places.taken.lock().unwrap().by_client.len(), 4);
    }

    #[test]
    fn clients_that_take_all_they_get_leave_places_to_others() {
        for floods in 1..8_u8 {
            let places = Arc::new(Places::new("audit_connections", 100));
            let take = |client| places.take([192, 0, 2, client].into(), Some(256));
            let mut taken = Vec::new();
            // In turns, until each of them is refused.
            loop {
                let before = taken.len();
                taken.extend((0..floods).filter_map(|client| take(client).ok()));
                if taken.len() == before {
                    break;
                }
            }
            let left = 100 - taken.len();
            assert!(left >= 100 / (usize::from(floods) + 1), "{floods} clients leave {left}");
            taken.extend((100..110).map(|quiet| take(quiet).unwrap()));
            // A proxy acts for many.
            let proxy = || places.take([192, 0, 2, 200].into(), None).ok();
            taken.extend(std::iter::from_fn(proxy));
            assert_eq!(taken.len(), 100);
        }
    }
}
