//! Requests on several connections at once, for as long as a test wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::ejection::site::Site;
use crate::support::client::{Connection, Request};

pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<u16>>>,
}

impl Load {
    /// One request after the other on each connection, with a pause between them.
    pub fn start(site: &Site, connections: u32, pause: Duration, request: &Request) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let threads = (0..connections).map(|_| {
            let (stop, request, address) = (Arc::clone(&stop), request.clone(), site.address);
            std::thread::spawn(move || {
                let mut statuses = Vec::new();
                let Ok(mut connection) = Connection::open(address) else { return vec![0] };
                while !stop.load(Ordering::Relaxed) {
                    match connection.exchange(&request) {
                        Ok(response) => statuses.push(response.status),
                        Err(_) => {
                            statuses.push(0);
                            match Connection::open(address) {
                                Ok(another) => connection = another,
                                Err(_) => return statuses,
                            }
                        }
                    }
                    std::thread::sleep(pause);
                }
                statuses
            })
        });
        Self { threads: threads.collect(), stop }
    }

    /// The statuses of all responses; 0 where there was none.
    pub fn stop(self) -> Vec<u16> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|_| vec![0])).collect()
    }
}

/// Those that are not 200.
pub fn failed(statuses: &[u16]) -> Vec<u16> {
    statuses.iter().copied().filter(|status| *status != 200).collect()
}
