//! Shared data that somebody else wrote under our keys: another plugin with our `vm_id`, or another version of Weir.

use super::Worker;
use super::fake_host::Random;
use std::time::Duration;

const HOSTS: [&str; 4] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"];

fn keys(cluster: &str) -> Vec<String> {
    let of_cluster = ["budget/2", "circuit", "ejections", "shadow-ejections", "hosts", "shadow-hosts"]
        .map(|kind| format!("weir/{kind}/{cluster}"));
    ["weir/workers", "weir/startup"].map(str::to_owned).into_iter().chain(of_cluster).collect()
}

/// Values that no version of ours wrote, and such as another one might: the same names with another number.
fn values(own: &[u8], random: &mut Random) -> Vec<Vec<u8>> {
    let mut values = vec![Vec::new(), vec![0xff; 3], b"hello".to_vec(), vec![0; 1 << 16], vec![0xff; 1 << 16]];
    for position in 0..own.len().min(40) {
        let mut other = own.to_vec();
        other[position] ^= 1 << random.below(8);
        values.push(other);
    }
    for version in (0..=255).filter(|version| own.get(3).is_some_and(|own| own != version)) {
        let mut other = own.to_vec();
        other[3] = version;
        values.push(other);
    }
    values.push([own, own].concat());
    values.push(own[..own.len() / 2].to_vec());
    values
}

/// With each foreign value under each key, at any time: requests go on, a broken host still is found, and found back.
#[test]
fn foreign_records_are_replaced() {
    let mut random = Random::new(7);
    let worker = Worker::new("{}");
    let cluster = "strangers";
    let ejected = || worker.host.metric("weir_ejections_total.reason.refused.cluster.strangers");
    let calm = |rounds: u32| {
        for _ in 0..rounds {
            for host in HOSTS {
                worker.go(cluster, "/", host, true);
            }
            worker.host.advance(Duration::from_millis(50));
            worker.tick();
        }
    };
    calm(100);
    worker.go(cluster, "/", HOSTS[0], false);
    worker.tick();
    assert_eq!(ejected(), 1);
    let own: Vec<_> =
        keys(cluster).into_iter().map(|key| (worker.host.shared(&key).map(|(value, _)| value), key)).collect();
    assert!(own.iter().filter(|(value, _)| value.is_some()).count() >= 3, "{own:?}");
    for (value, key) in &own {
        for foreign in values(value.as_deref().unwrap_or(b"wrb\x01 and more"), &mut random) {
            worker.host.set_shared(key, &foreign);
            calm(1);
            worker.go(cluster, "/", HOSTS[1], false);
            worker.tick();
        }
    }
    // What they left behind is over within the longest ejection, and a minute; then all is as before.
    for _ in 0..200 {
        calm(1);
        worker.host.advance(Duration::from_secs(1));
    }
    calm(100);
    let before = ejected();
    worker.go(cluster, "/", HOSTS[2], false);
    worker.tick();
    assert_eq!(ejected(), before + 1);
}
