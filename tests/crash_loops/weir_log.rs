//! What Weir says in Envoy's log, read back: when it ejected which replica, and which incidents it recognised.

use std::net::SocketAddr;
use std::time::Duration;

use super::picture::Mark;

/// For Envoy's `--log-format`: the time since the Unix epoch, then the message.
pub const FORMAT: &str = "%E.%e %v";

/// The lines of one cluster, in order, with the time of each since `began`.
fn lines(log: &str, began: Duration) -> impl Iterator<Item = (Duration, &str)> {
    log.lines().filter_map(move |line| {
        let (time, message) = line.split_once(' ')?;
        let (seconds, millis) = time.split_once('.')?;
        let at = Duration::from_secs(seconds.parse().ok()?) + Duration::from_millis(millis.parse().ok()?);
        let text = &message[message.find("weir: ")? + "weir: ".len()..];
        // Envoy may put the VM's name before it, which is the same word.
        Some((at.saturating_sub(began), text.strip_prefix("weir: ").unwrap_or(text)))
    })
}

/// What Weir did with each replica, until `length`.
pub fn marks(log: &str, began: Duration, replicas: &[SocketAddr], length: Duration) -> Vec<Vec<Mark>> {
    let mut marks = vec![Vec::new(); replicas.len()];
    let mut out: Vec<Option<Duration>> = vec![None; replicas.len()];
    let mut back = |number: usize, from: &mut Option<Duration>, at: Duration, answers: bool| {
        if let Some(from) = from.take() {
            marks[number].push(Mark::Out { from, until: at });
            if answers {
                marks[number].push(Mark::Back { at });
            }
        }
    };
    let mut failed = Vec::new();
    for (at, line) in lines(log, began).filter(|(at, _)| *at < length) {
        if line.ends_with("all hosts fail alike, so none is out") {
            out.iter_mut().enumerate().for_each(|(number, from)| back(number, from, at, false));
            continue;
        }
        let Some((_, rest)) = line.split_once(": host ") else { continue };
        let host = rest.split(' ').next().and_then(|host| host.parse().ok());
        let Some(number) = replicas.iter().position(|replica| Some(*replica) == host) else { continue };
        if rest.contains(" ejected for ") {
            match out[number] {
                Some(_) => failed.push((number, at)),
                None => out[number] = Some(at),
            }
        } else if rest.contains(" answers again") {
            back(number, &mut out[number], at, true);
        }
    }
    out.iter_mut().enumerate().for_each(|(number, from)| back(number, from, length, false));
    failed.into_iter().for_each(|(number, at)| marks[number].push(Mark::FailedProbe { at }));
    marks
}

/// A pattern that Weir recognised, as it said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    pub at: Duration,
    pub state: String,
    pub pattern: String,
    pub host: String,
    /// What was counted and measured: name and value.
    pub evidence: Vec<(String, String)>,
    pub look_at: String,
}

pub fn incidents(log: &str, began: Duration) -> Vec<Incident> {
    lines(log, began).filter_map(|(at, line)| incident(at, line.strip_prefix("incident ")?)).collect()
}

fn incident(at: Duration, text: &str) -> Option<Incident> {
    let mut incident = Incident {
        at,
        state: String::new(),
        pattern: String::new(),
        host: String::new(),
        evidence: Vec::new(),
        look_at: String::new(),
    };
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = value(after);
        match key.trim() {
            "state" => incident.state = value,
            "pattern" => incident.pattern = value,
            "host" => incident.host = value,
            "look_at" => incident.look_at = value,
            "cluster" => {}
            key => incident.evidence.push((key.to_owned(), value)),
        }
        rest = next;
    }
    (!incident.pattern.is_empty()).then_some(incident)
}

/// A value, quoted or not, and what follows it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_once(' ').unwrap_or((text, ""));
        return (value.to_owned(), rest);
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (position, character) in quoted.char_indices() {
        match character {
            '"' if !escaped => return (value, &quoted[position + 1..]),
            '\\' if !escaped => escaped = true,
            character => {
                value.push(character);
                escaped = false;
            }
        }
    }
    (value, "")
}
