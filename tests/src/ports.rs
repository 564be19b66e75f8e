//! Ports for what tests start. A port that the system gives out is free only until something else asks for one: a server that
//! was about to take it answered in another's place.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below what the system gives out by itself.
const FIRST: u32 = 20_000;
/// How many suites that run at the same time keep apart, by the numbers of their processes.
const SUITES: u32 = 120;
/// How many ports each has.
const EACH: u32 = 100;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port that nothing listens on, and that nothing else in this process is given soon.
pub fn free() -> io::Result<u16> {
    let mut taken = io::ErrorKind::AddrInUse.into();
    for _ in 0..EACH {
        let place = NEXT.fetch_add(1, Ordering::Relaxed) % EACH;
        let port = FIRST + std::process::id() % SUITES * EACH + place;
        let port = u16::try_from(port).map_err(io::Error::other)?;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => taken = error,
        }
    }
    Err(taken)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn nobody_is_given_a_port_twice_while_there_are_others() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, free().unwrap())).unwrap();
        let given: HashSet<u16> = (0..EACH / 2).map(|_| free().unwrap()).collect();
        assert_eq!(given.len(), EACH as usize / 2);
        assert!(!given.contains(&held.local_addr().unwrap().port()));
    }
}
