//! Lines that are no JSON: the default text formats of Envoy and of Istio; and what stands before lines that come from `kubectl`.

use super::fields::{Fields, Word};

/// What `kubectl logs --prefix`, `--timestamps` and the log files of containers put before a line: of which pod it is, and the line.
pub fn unprefixed(line: &[u8]) -> (&str, &[u8]) {
    let (mut pod, mut rest) = ("", line);
    if let Some(prefixed) = line.strip_prefix(b"[pod/")
        && let Some(end) = prefixed.windows(2).position(|pair| pair == b"] ")
    {
        let (name, after) = prefixed.split_at(end);
        pod = std::str::from_utf8(name).unwrap_or_default();
        // pod/NAME/CONTAINER
        pod = pod.split('/').next().unwrap_or_default();
        rest = after.get(2..).unwrap_or_default();
    }
    if let Some(space) = rest.iter().take(40).position(|byte| *byte == b' ')
        && is_time(rest.get(..space).unwrap_or_default())
    {
        rest = rest.get(space + 1..).unwrap_or_default();
        rest = [&b"stdout F "[..], b"stderr F "].iter().find_map(|tag| rest.strip_prefix(*tag)).unwrap_or(rest);
    }
    (pod, rest.trim_ascii())
}

/// `2026-11-22T21:44:23.123456789Z`, more or less.
fn is_time(word: &[u8]) -> bool {
    word.len() >= 20
        && word.get(4) == Some(&b'-')
        && word.get(10) == Some(&b'T')
        && word.iter().all(|byte| byte.is_ascii_digit() || b"-:.TZ+".contains(byte))
}

/// The fields of a line in one of the two formats:
///
/// ```text
/// [START_TIME] "METHOD PATH PROTOCOL" RESPONSE_CODE RESPONSE_FLAGS
///   Istio:  RESPONSE_CODE_DETAILS CONNECTION_TERMINATION_DETAILS "UPSTREAM_TRANSPORT_FAILURE_REASON"
///   both:   BYTES_RECEIVED BYTES_SENT DURATION SERVICE_TIME "X-FORWARDED-FOR" "USER-AGENT" "X-REQUEST-ID" "AUTHORITY"
///           "UPSTREAM_HOST"
///   Istio:  UPSTREAM_CLUSTER UPSTREAM_LOCAL_ADDRESS DOWNSTREAM_LOCAL_ADDRESS DOWNSTREAM_REMOTE_ADDRESS SERVER_NAME ROUTE_NAME
/// ```
///
/// Envoy's own names no cluster: the authority stands for it. What clients send is between what is read from the left and what is
/// read from the right, so that quotes in a user agent do no harm.
pub fn fields(line: &[u8]) -> Option<Fields<'_>> {
    let line = std::str::from_utf8(line).ok()?;
    let (start, rest) = line.strip_prefix('[')?.split_once("] \"")?;
    let (method, rest) = rest.split_once(' ')?;
    // A path may have quotes in it; after the request stands a number.
    let mut ends = rest.match_indices("\" ").map(|(at, end)| rest.split_at(at + end.len()).1);
    let rest = ends.find(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut fields = Fields { start_time: Word::from(start), method: Word::from(method), ..Fields::default() };
    let (mut left, mut right) = (rest, rest);
    let mut first = || first_word(&mut left).map(Word::from);
    let mut last = || last_word(&mut right);
    (fields.response_code, fields.response_flags) = (first()?, first()?);
    let is_istio = !rest.ends_with('"');
    if is_istio {
        fields.response_code_details = first()?;
        first()?;
        fields.upstream_transport_failure_reason = first()?;
        fields.route_name = last().map(Word::from)?;
        for _ in 0..3 {
            last()?;
        }
        fields.upstream_local_address = last().map(Word::from)?;
        fields.upstream_cluster = last().map(Word::from)?;
    }
    let (host, authority, id) = (last()?, last()?, last()?);
    first()?;
    first()?;
    fields.duration = first()?;
    (fields.upstream_host, fields.request_id) = (Word::from(host), Word::from(id));
    // Without a host Envoy answered by itself, unless it says why there was none.
    let unsent = host == "-" && matches!(fields.response_flags.text(), "" | "NR" | "NC" | "DC");
    if !is_istio && !unsent {
        fields.upstream_cluster = Word::from(authority);
    }
    Some(fields)
}

/// Takes the first word off a text; a quoted one may have blanks in it.
fn first_word<'a>(text: &mut &'a str) -> Option<&'a str> {
    let (word, rest) = match text.strip_prefix('"') {
        Some(quoted) => quoted.split_once("\" ")?,
        None => text.split_once(' ')?,
    };
    *text = rest;
    Some(word)
}

/// Takes the last word off a text.
fn last_word<'a>(text: &mut &'a str) -> Option<&'a str> {
    let (rest, word) = match text.strip_suffix('"') {
        Some(quoted) => quoted.rsplit_once(" \"")?,
        None => text.rsplit_once(' ')?,
    };
    *text = rest;
    Some(word)
}
