//! A storm of resets, before and after requests are processed: which POSTs are processed twice?

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::attempts;
use super::books::Books;
use super::finding::{self, Finding};
use super::host::{Application, Host, Reset};
use super::load::Load;
use super::policy::Policy;
use super::proxy::Proxy;

const POSTS: u64 = 10_000;
const RATE: u64 = 250;
const HOSTS: usize = 8;
const WORKERS: u32 = 2;

/// Percent of the attempts that are reset after they were processed, and before.
const RESET_AFTER: u64 = 10;
const RESET_BEFORE: u64 = 5;

/// All hosts of one policy.
#[derive(Default)]
struct Service {
    seed: u64,
    /// How often each request was processed.
    processed: Mutex<HashMap<u64, u32>>,
}

impl Service {
    fn processed(&self) -> HashMap<u64, u32> {
        self.processed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Application for Service {
    async fn answer(&self, number: u64, attempt: u64) -> Result<StatusCode, Reset> {
        // The same fate for the same attempt under every policy. Neighbours' fates must not be alike, so the bits are mixed.
        let attempt = (number << 8 | attempt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let fate = fastrand::Rng::with_seed(self.seed ^ attempt ^ attempt >> 32).u64(0..100);
        if fate < RESET_BEFORE {
            return Err(Reset);
        }
        *self.processed.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_insert(0) += 1;
        if fate < RESET_BEFORE + RESET_AFTER { Err(Reset) } else { Ok(StatusCode::OK) }
    }
}

struct Storm {
    policy: Policy,
    answered: u64,
    twice: u64,
    /// Envoy's log of the attempts of one of them.
    example: Option<String>,
    books: Books,
}

pub fn run(runtime: &Runtime, seed: u64) -> Result<Finding> {
    let mut rows = Vec::new();
    let mut numbers = Vec::new();
    let mut broken = Vec::new();
    let mut notes = vec![
        "  Weir promises: none. What it retries is what was refused; a POST that was reset fails, since nobody but the host\n\
         \x20 knows whether it was processed."
            .to_owned(),
    ];
    for storm in runtime.block_on(everyone(seed))? {
        notes.extend(finding::unsent(storm.policy, POSTS, storm.books.requests));
        broken.extend(storm.books.mistakes(0));
        if let (true, Some(example)) = (storm.policy.is_weir(), &storm.example) {
            broken.push(format!("{}: {} POSTs processed twice, such as {example}", storm.policy.name(), storm.twice));
        }
        rows.push((
            storm.policy,
            vec![storm.twice.to_string(), storm.answered.to_string(), storm.books.retries().to_string()],
        ));
        numbers.push(json!({
            "policy": storm.policy.name().trim(),
            "processedTwice": storm.twice,
            "answered": storm.answered,
            "books": storm.books.to_json(),
        }));
    }
    Ok(Finding {
        title: "Safety: POSTs processed twice",
        setting: format!(
            "{POSTS} POSTs, {RATE} a second, {HOSTS} hosts: one refuses connections, the others reset {RESET_AFTER} percent of the\n\
             attempts after they processed them, and {RESET_BEFORE} percent before."
        ),
        columns: vec!["processed twice", "answered", "retries"],
        rows,
        notes,
        broken,
        numbers: Value::Array(numbers),
    })
}

async fn everyone(seed: u64) -> Result<Vec<Storm>> {
    let mut trials = Vec::new();
    for policy in Policy::RETRIES {
        trials.push(prepare(policy, seed).await?);
    }
    let start = Instant::now() + Duration::from_millis(200);
    let trials: Vec<_> =
        trials.into_iter().map(|(proxy, service, hosts)| tokio::spawn(storm(proxy, service, hosts, start))).collect();
    let mut storms = Vec::new();
    for trial in trials {
        storms.push(trial.await??);
    }
    Ok(storms)
}

async fn prepare(policy: Policy, seed: u64) -> Result<(Proxy, Arc<Service>, Vec<Host<Service>>)> {
    let service = Arc::new(Service { seed, ..Service::default() });
    let mut hosts: Vec<_> = (0..HOSTS).map(|_| Host::new(&service)).collect();
    for host in hosts.iter_mut().skip(1) {
        host.open().await?;
    }
    let clusters = [("orders".to_owned(), hosts.iter().map(|host| host.address).collect())];
    let proxy =
        tokio::task::spawn_blocking(move || Proxy::start(policy, WORKERS, &clusters, &json!({"timeout": "15s"})))
            .await??;
    Ok((proxy, service, hosts))
}

async fn storm(proxy: Proxy, service: Arc<Service>, hosts: Vec<Host<Service>>, start: Instant) -> Result<Storm> {
    let load = Load {
        target: proxy.listener,
        cluster: "orders",
        method: Method::POST,
        rate: RATE,
        count: POSTS,
        patience: Duration::from_secs(60),
    };
    let outcomes = load.run(start).await;
    let policy = proxy.policy;
    let arrived = hosts.iter().map(Host::arrived).sum();
    let mut twice: Vec<u64> =
        service.processed().into_iter().filter(|(_, times)| *times > 1).map(|(number, _)| number).collect();
    twice.sort_unstable();
    let closing = tokio::task::spawn_blocking(move || {
        let first = twice.first().map(|number| attempts::of_request(&proxy.log(), "orders", *number));
        let books = Books::close(&proxy, "orders", proxy.requests()?, arrived)?;
        anyhow::Ok((books, twice.len() as u64, first))
    });
    let (books, twice, example) = closing.await??;
    Ok(Storm {
        policy,
        answered: outcomes.iter().filter(|outcome| outcome.answered()).count() as u64,
        twice,
        example,
        books,
    })
}
