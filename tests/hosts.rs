//! The hosts of a cluster: what is kept up to date of them, beside what looking at all of them comes to.

use std::collections::BTreeMap;
use std::time::Duration;

use weir::base::random::Random;
use weir::base::time::Time;
use weir::outlier::detector::{Detector, Failure, OutlierPolicy, Peers, is_outlier, is_widespread};
use weir::outlier::host::{AttemptHistory, LENGTH};
use weir::outlier::hosts::{Hosts, Return};
use weir::outlier::shared::{Ejection, WorkerId};

// The crate links only with a host beside it.
mod fake_host;

const INTERVAL: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);

/// In how many ways so many attempts of these can fail.
fn ways(failed: f64, attempts: f64) -> f64 {
    (0..failed as u64).map(|one| (attempts - one as f64) / (one + 1) as f64).product()
}

/// What [`is_outlier`] says, with each record looked at.
fn outlier_of_records(
    policy: &OutlierPolicy,
    host: &AttemptHistory,
    failure: Failure,
    others: &[AttemptHistory],
    now: Time,
) -> bool {
    let measured = others.iter().any(|other| !other.is_failing() && other.attempts() >= 8);
    let others: Vec<_> = others.iter().filter(|other| !measured || !other.is_failing()).collect();
    let Detector { count, percent } = policy.reset;
    let recent = host.within_interval(failure, now);
    if recent < u64::from(count) || !others.iter().any(|other| other.answered_in_a_row() > 0) {
        return false;
    }
    if host.failed_in_a_row(failure) >= 8 && others.iter().any(|other| other.answered_in_a_row() >= 8) {
        return true;
    }
    [1, 2, 4, 8, 16, 32, LENGTH].iter().any(|&length| {
        let (failed, attempts) = host.last(failure, length);
        let failed = failed.min(recent);
        failed >= u64::from(count)
            && [length, LENGTH].iter().all(|&length| {
                let lasts = others.iter().map(|other| other.last(failure, length));
                let (f, a) = lasts.fold((0, 0), |sum, last| (sum.0 + last.0, sum.1 + last.1));
                let (failed, attempts, f, a) = (failed as f64, attempts as f64, f as f64, a.max(1) as f64);
                let above = failed * a - f * attempts;
                above > 0.0
                    && above * 10_000.0 >= f64::from(percent.basis_points()) * attempts * a
                    && above * above > 16.0 * f * attempts * (a + attempts)
                    && (failure == Failure::Refused || ways(failed, attempts) * (f / a).powf(failed) < 1.0 / 512.0)
            })
    })
}

#[test]
fn an_outlier_is_one_by_sums_as_it_is_by_looking_at_each_record() {
    let mut random = Random::new(1);
    let (now, policy) = (Time::from_nanos(1_800_000_000_000_000_000), OutlierPolicy::default());
    let mut outliers = 0;
    for _ in 0..3_000 {
        let share = [0, 1, 5, 30, 100][random.below(5) as usize];
        let mut all = Peers::new();
        let mut records: Vec<AttemptHistory> = Vec::new();
        for _ in 0..1 + random.below(12) {
            let mut record = AttemptHistory::new(INTERVAL);
            all.add(&record);
            for _ in 0..random.below(90) {
                all.remove(&record);
                match random.below(100) < share {
                    true => record.failed(Failure::ALL[random.below(4) as usize], now),
                    false => record.answered(1 + random.below(3) as u32),
                }
                all.add(&record);
            }
            records.push(record);
        }
        let mut host = records.swap_remove(0);
        all.remove(&host);
        let in_a_row = random.below(2) == 0;
        for _ in 0..random.below(12) {
            host.failed(Failure::Reset, now);
            if !in_a_row {
                host.answered(random.below(3) as u32);
            }
        }
        host.failed(Failure::Reset, now);
        let expected = outlier_of_records(&policy, &host, Failure::Reset, &records, now);
        assert_eq!(is_outlier(&policy, &host, Failure::Reset, &all, now), expected, "{host:?} among {records:?}");
        outliers += u32::from(expected);
        for failure in Failure::ALL {
            let lasts = records.iter().map(|other| other.last(failure, 8));
            let (failed, attempts) = lasts.fold((0, 0), |sum, last| (sum.0 + last.0, sum.1 + last.1));
            assert_eq!(is_widespread(&all, failure), failed > 0 && 2 * failed >= attempts);
        }
    }
    assert!((500..2_500).contains(&outliers), "{outliers} of 3,000");
}

/// What is known of a host, kept in the simplest way.
#[derive(Clone, Debug)]
struct Model {
    history: AttemptHistory,
    out: bool,
    seen: Time,
}

fn ejection(address: &str, now: Time) -> Ejection {
    Ejection {
        address: address.into(),
        failure: Failure::Reset,
        unreachable: false,
        ejection_count: 0,
        since: now,
        failed: now,
        until: now,
        due: now,
        owner: WorkerId(1),
    }
}

/// Compares all that can be asked with what the model says.
fn compare(hosts: &mut Hosts, model: &BTreeMap<String, Model>, now: Time) {
    assert_eq!(hosts.iter().map(|host| &*host.address).collect::<Vec<_>>(), model.keys().collect::<Vec<_>>());
    let out: Vec<_> = model.iter().filter(|(_, host)| host.out).map(|(address, _)| &**address).collect();
    assert_eq!(hosts.each_ejected().map(|(_, host, _)| &*host.address).collect::<Vec<_>>(), out);
    let is_present = |host: &Model| !host.out && now.since(host.seen) < MINUTE;
    let present = model.values().filter(|host| is_present(host)).count();
    assert_eq!(hosts.known(now), present + out.len());
    hosts.count_peers(now);
    assert_eq!(hosts.known(now), present + out.len());
    for (place, (address, host)) in model.iter().enumerate() {
        assert_eq!(hosts.find(address), Some(place));
        assert_eq!(hosts.at(place).unwrap().is_present(now), is_present(host));
    }
    let mut others = Peers::new();
    model.iter().skip(1).filter(|(_, host)| is_present(host)).for_each(|(_, host)| others.add(&host.history));
    assert_eq!(format!("{:?}", hosts.peers_of(0, now)), format!("{others:?}"));
    let broken = model.values().any(|host| is_present(host) && host.history.last_broke());
    assert_eq!(hosts.any_watched(&|host| host.history.last_broke(), now), broken);
    let healthy = model.values().any(|host| is_present(host) && host.history.last_succeeded());
    assert_eq!(hosts.any_healthy(&|host| host.history.last_succeeded(), now), healthy);
}

#[test]
fn what_is_kept_up_to_date_is_what_looking_at_all_of_them_shows() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let most = 5 + random.below(30) as usize;
        let mut hosts = Hosts::new(INTERVAL, most);
        let mut model: BTreeMap<String, Model> = BTreeMap::new();
        let mut now = Time::from_nanos(1_800_000_000_000_000_000);
        for _ in 0..1_000 {
            now = now.saturating_add(Duration::from_millis(random.below(2_000)));
            if random.below(300) == 0 {
                now = Time::from_nanos(now.as_nanos() - random.below(200_000_000_000));
            }
            let address = format!("host-{}:80", random.below(40));
            match random.below(10) {
                0..=3 => _ = seen(&mut hosts, &mut model, most, &address, now),
                4..=6 => {
                    let place = seen(&mut hosts, &mut model, most, &address, now);
                    let host = model.get_mut(&address).unwrap();
                    if random.below(3) == 0 {
                        let failure = Failure::ALL[random.below(4) as usize];
                        hosts.failed(place, failure, now);
                        host.history.failed(failure, now);
                    } else {
                        let answers = 1 + random.below(100) as u32;
                        hosts.answered(place, answers);
                        host.history.answered(answers);
                    }
                }
                _ => {
                    let mut out: Vec<String> =
                        model.iter().filter(|(_, host)| host.out).map(|(a, _)| a.clone()).collect();
                    out.retain(|_| random.below(4) > 0);
                    if out.len() < most / 2 && random.below(2) == 0 && !out.contains(&address) {
                        out.push(address);
                    }
                    out.sort();
                    let ejections: Vec<_> = out.iter().map(|address| ejection(address, now)).collect();
                    let common = random.below(4) == 0;
                    adopt(&mut hosts, &mut model, most, &ejections, common, now);
                }
            }
            compare(&mut hosts, &model, now);
        }
        assert!(hosts.take_forgotten() > 0 || most > 30);
    }
}

fn seen(hosts: &mut Hosts, model: &mut BTreeMap<String, Model>, most: usize, address: &str, now: Time) -> usize {
    if !model.contains_key(address) {
        if model.len() >= most {
            let least = model.iter().min_by_key(|(_, host)| (host.out, host.seen)).map(|(address, _)| address.clone());
            model.remove(&least.unwrap());
        }
        model.insert(address.to_owned(), Model { history: AttemptHistory::new(INTERVAL), out: false, seen: now });
    }
    model.get_mut(address).unwrap().seen = now;
    hosts.seen(address, now).unwrap()
}

#[test]
fn a_host_that_comes_back_forgets_what_it_broke_last_and_no_more() {
    let now = Time::from_nanos(1_800_000_000_000_000_000);
    let mut history = AttemptHistory::new(INTERVAL);
    history.failed(Failure::Reset, now);
    history.answered(3);
    (0..2).for_each(|_| history.failed(Failure::Refused, now));
    history.failed(Failure::Reset, now);
    history.restarted();
    assert_eq!([Failure::Reset, Failure::Refused].map(|failure| history.last(failure, LENGTH)), [(1, 7), (0, 7)]);
    (0..LENGTH).for_each(|_| history.failed(Failure::Reset, now));
    history.restarted();
    assert!(!history.has(Failure::Reset));
}

fn adopt(
    hosts: &mut Hosts,
    model: &mut BTreeMap<String, Model>,
    most: usize,
    shared: &[Ejection],
    common: bool,
    now: Time,
) {
    for (address, host) in model.iter_mut() {
        host.seen = host.seen.min(now);
        if host.out && !shared.iter().any(|ejection| *ejection.address == **address) {
            host.out = false;
            match common {
                true => host.history.failed(Failure::Reset, now),
                false => {
                    host.history.restarted();
                    host.history.answered(2);
                }
            }
        }
    }
    hosts.adopt(shared, Return { all_fail: common, answers: 2, picks: 0 }, now);
    for ejection in shared {
        let known = model.contains_key(&*ejection.address);
        if !known && model.len() >= most {
            let least = model.iter().min_by_key(|(_, host)| (host.out, host.seen)).unwrap().0.clone();
            model.remove(&least);
        }
        let fresh = Model { history: AttemptHistory::new(INTERVAL), out: true, seen: now };
        let host = model.entry(ejection.address.to_string()).or_insert(fresh);
        (host.out, host.seen) = (true, now);
    }
    assert_eq!(hosts.ejected(), hosts.iter().filter(|host| host.state.is_ejected()).count());
}
