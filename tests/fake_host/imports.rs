//! The functions of the ABI that the module calls, as Envoy answers them.
//!
//! Natively the linker finds them here. On wasm32 the module imports them from `env`, as it does in Envoy, and
//! `tests/node/env.js` forwards each import to the function of that name here.

use super::faults::{Call, Fault, HostCall, status};
use super::headers::{decode_pairs, encode_pairs};
use super::state::{Edit, LocalReply, LogLine, Map, Metric, Phase, State, with};
use std::slice;

/// What the module passes. A null pointer comes with size zero only; anything else is reported.
fn bytes<'a>(data: *const u8, size: usize) -> &'a [u8] {
    if data.is_null() || size == 0 {
        if size > 0 {
            with(|state| state.violations.push(format!("a null pointer to {size} bytes")));
        }
        return &[];
    }
    // SAFETY: the module says so, and it is under test here; it lends them for the duration of the call.
    unsafe { slice::from_raw_parts(data, size) }
}

fn text(data: *const u8, size: usize) -> String {
    String::from_utf8_lossy(bytes(data, size)).into_owned()
}

/// Writes a result to where the module wants it.
fn put<T>(to: *mut T, value: T) -> i32 {
    if to.is_null() {
        return status::INVALID_MEMORY_ACCESS;
    }
    // SAFETY: the module points at a variable of its own of that type.
    unsafe { to.write(value) };
    status::OK
}

/// Counts a call, and asks whether it goes wrong.
fn fault(call: HostCall, key: &str) -> Option<Fault> {
    // The rule runs outside of the state, so that it may ask the host.
    let (call, rule) = with(|state| {
        *state.calls.entry(call).or_default() += 1;
        (Call::new(call, state.current, key), state.faults.rule.take())
    });
    let mut rule = rule?;
    let fault = rule(&call);
    with(|state| {
        state.faults.count += u64::from(fault.is_some());
        state.faults.rule.get_or_insert(rule);
    });
    fault
}

/// A call that returns no bytes: `run` only if nothing goes wrong.
fn plain(call: HostCall, key: &str, run: impl FnOnce(&mut State) -> i32) -> i32 {
    match fault(call, key) {
        None => with(run),
        Some(Fault::Status(status)) => status,
        // Success, and nothing done.
        Some(_) => status::OK,
    }
}

/// A call that returns bytes, in memory of the module.
fn returning(
    call: HostCall,
    key: &str,
    data: *mut *mut u8,
    size: *mut usize,
    run: impl FnOnce(&mut State) -> Result<Vec<u8>, i32>,
) -> i32 {
    let value = match fault(call, key) {
        None => match with(run) {
            Ok(value) => value,
            Err(status) => return status,
        },
        Some(Fault::Status(status)) => return status,
        Some(Fault::Nothing) => return status::OK,
        Some(Fault::NoAddress(claimed)) => {
            put(data, std::ptr::null_mut());
            return put(size, claimed);
        }
        Some(Fault::Bytes(bytes)) => bytes.to_vec(),
        Some(Fault::Truncate(length)) => match with(run) {
            Ok(mut value) => {
                value.truncate(length);
                value
            }
            Err(status) => return status,
        },
    };
    let mut address = std::ptr::null_mut();
    if !value.is_empty() {
        // Outside of the state: this calls the module.
        let Some(allocate) = with(|state| state.allocate) else { return status::INTERNAL_FAILURE };
        address = allocate(value.len());
        if address.is_null() {
            return status::INVALID_MEMORY_ACCESS;
        }
        // SAFETY: the module has just allocated that many bytes there.
        unsafe { slice::from_raw_parts_mut(address, value.len()) }.copy_from_slice(&value);
    }
    put(data, address);
    put(size, value.len())
}

/// The status for a header map that the current callback may not use.
fn not_lent(state: &State) -> i32 {
    match state.current {
        Some(current) if current.phase == Phase::Log => status::NOT_FOUND,
        _ => status::BAD_ARGUMENT,
    }
}

fn edit(map: u32, name: &str, value: Option<&[u8]>, state: &mut State) -> i32 {
    let map = Map::from(map);
    let Some(headers) = state.headers(map, true) else { return status::BAD_ARGUMENT };
    match value {
        Some(value) => headers.set(name, value),
        None => headers.remove(name),
    }
    let value = value.map(|value| String::from_utf8_lossy(value).into_owned());
    if let Some(current) = state.current {
        state.context(current.context).edits.push(Edit { map, name: name.to_owned(), value });
    }
    status::OK
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_log(level: u32, message: *const u8, size: usize) -> i32 {
    let text = text(message, size);
    plain(HostCall::Log, "", |state| {
        state.logs.push(LogLine { level, text });
        status::OK
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_get_current_time_nanoseconds(time: *mut u64) -> i32 {
    plain(HostCall::GetCurrentTime, "", |state| put(time, state.now))
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_set_tick_period_milliseconds(period: u32) -> i32 {
    plain(HostCall::SetTickPeriod, "", |state| {
        let Some(current) = state.current else { return status::BAD_ARGUMENT };
        let root = state.context(current.context).root;
        state.tick_periods.insert(root, period);
        status::OK
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_get_buffer_bytes(
    buffer: u32,
    start: usize,
    max: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> i32 {
    returning(HostCall::GetBuffer, "", data, size, |state| {
        let whole = match (buffer, state.current) {
            (6, Some(_)) => Vec::new(),
            (7, Some(current)) if current.phase == Phase::Configure => {
                state.context(current.context).configuration.clone()
            }
            (0..=8, _) => return Err(status::NOT_FOUND),
            _ => return Err(status::BAD_ARGUMENT),
        };
        // Envoy refuses what overflows its 64-bit sum: nothing of 32 bits does.
        let end = start.saturating_add(max).min(whole.len());
        Ok(whole.get(start..end).unwrap_or_default().to_vec())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> i32 {
    let path = text(path, path_size).replace('\0', ".");
    returning(HostCall::GetProperty, &path, data, size, |state| state.property(&path).ok_or(status::NOT_FOUND))
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, size: usize) -> i32 {
    let path = text(path, path_size).replace('\0', ".");
    let value = bytes(value, size).to_vec();
    plain(HostCall::SetProperty, &path, |state| {
        let Some(current) = state.current else { return status::BAD_ARGUMENT };
        let request = state.context(current.context).request;
        state.filter_state.insert((request, path.clone()), value);
        status::OK
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> i32 {
    returning(HostCall::GetHeaderPairs, "", data, size, |state| {
        if map > 7 {
            return Err(status::BAD_ARGUMENT);
        }
        // A map that is not there has no headers; that is no error.
        Ok(state.headers(Map::from(map), false).map(|headers| encode_pairs(headers)).unwrap_or_default())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_get_header_map_value(
    map: u32,
    name: *const u8,
    name_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> i32 {
    let name = text(name, name_size);
    returning(HostCall::GetHeader, &name, data, size, |state| {
        let missing = not_lent(state);
        let headers = state.headers(Map::from(map), false).ok_or(missing)?;
        headers.get(&name).map(<[u8]>::to_vec).ok_or(status::NOT_FOUND)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_replace_header_map_value(
    map: u32,
    name: *const u8,
    name_size: usize,
    value: *const u8,
    size: usize,
) -> i32 {
    let name = text(name, name_size);
    let value = bytes(value, size).to_vec();
    plain(HostCall::ReplaceHeader, &name, |state| edit(map, &name, Some(&value), state))
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> i32 {
    let name = text(name, name_size);
    plain(HostCall::RemoveHeader, &name, |state| edit(map, &name, None, state))
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_send_local_response(
    code: u32,
    details: *const u8,
    details_size: usize,
    body: *const u8,
    body_size: usize,
    headers: *const u8,
    headers_size: usize,
    grpc_status: i32,
) -> i32 {
    let pairs = decode_pairs(bytes(headers, headers_size));
    if pairs.is_none() {
        with(|state| state.violations.push("a local reply with malformed headers".to_owned()));
    }
    let reply = LocalReply {
        status: code,
        details: text(details, details_size),
        body: text(body, body_size),
        headers: pairs.unwrap_or_default(),
        grpc_status,
    };
    plain(HostCall::SendLocalResponse, "", |state| {
        // Envoy says yes even where there is no stream to reply to.
        if let Some(current) = state.current {
            state.context(current.context).replies.push(reply);
        }
        status::OK
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_set_effective_context(context: u32) -> i32 {
    plain(HostCall::SetEffectiveContext, "", |state| {
        let known = state.contexts.contains_key(&context);
        match &mut state.current {
            Some(current) if known => {
                current.context = context;
                status::OK
            }
            _ => status::BAD_ARGUMENT,
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_continue_stream(stream: u32) -> i32 {
    plain(HostCall::ContinueStream, "", |state| {
        let Some(current) = state.current else { return status::BAD_ARGUMENT };
        if stream > 1 {
            return status::BAD_ARGUMENT;
        }
        if stream == 0 {
            state.context(current.context).request_paused = false;
        }
        status::OK
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> i32 {
    let name = text(name, name_size);
    plain(HostCall::DefineMetric, &name, |state| {
        if kind > 2 {
            return status::BAD_ARGUMENT;
        }
        // As in Envoy: the same name gets a new number for the same metric, and the number tells the kind.
        let number = (state.metric_ids.len() as u32 + 1) << 2 | kind;
        state.metric_ids.insert(number, name.clone());
        state.metrics.entry(name.clone()).or_insert(Metric { kind, value: 0 });
        put(id, number)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_increment_metric(id: u32, by: i64) -> i32 {
    let name = with(|state| state.metric_ids.get(&id).cloned()).unwrap_or_default();
    plain(HostCall::IncrementMetric, &name, |state| match state.metrics.get_mut(&name) {
        None => status::NOT_FOUND,
        Some(metric) if metric.kind == 2 || (metric.kind == 0 && by < 0) => status::BAD_ARGUMENT,
        Some(metric) => {
            metric.value = metric.value.wrapping_add_signed(by);
            status::OK
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_record_metric(id: u32, value: u64) -> i32 {
    let name = with(|state| state.metric_ids.get(&id).cloned()).unwrap_or_default();
    plain(HostCall::RecordMetric, &name, |state| match state.metrics.get_mut(&name) {
        None => status::NOT_FOUND,
        Some(metric) => {
            // On a counter it adds, as in Envoy.
            metric.value = if metric.kind == 0 { metric.value.wrapping_add(value) } else { value };
            status::OK
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_get_shared_data(
    key: *const u8,
    key_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
    cas: *mut u32,
) -> i32 {
    let key = bytes(key, key_size).to_vec();
    returning(HostCall::GetSharedData, &String::from_utf8_lossy(&key), data, size, |state| {
        let shared = state.shared.get(&key).ok_or(status::NOT_FOUND)?;
        put(cas, shared.cas);
        Ok(shared.value.clone())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_set_shared_data(
    key: *const u8,
    key_size: usize,
    value: *const u8,
    size: usize,
    cas: u32,
) -> i32 {
    let key = bytes(key, key_size).to_vec();
    let value = bytes(value, size).to_vec();
    plain(HostCall::SetSharedData, &String::from_utf8_lossy(&key), |state| match state.shared.get(&key) {
        Some(shared) if cas != 0 && cas != shared.cas => status::CAS_MISMATCH,
        _ => {
            state.set_shared(&key, &value);
            status::OK
        }
    })
}

/// What the SDK can call and Weir does not: it would not be in the module (`postlink/postlink.mjs`).
macro_rules! not_called {
    ($($name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            pub extern "C" fn $name() -> i32 {
                panic!(concat!("the module calls ", stringify!($name)))
            }
        )*
    };
}

not_called! {
    proxy_add_header_map_value proxy_call_foreign_function proxy_close_stream proxy_dequeue_shared_queue proxy_done
    proxy_enqueue_shared_queue proxy_get_status proxy_grpc_call proxy_grpc_cancel proxy_grpc_close proxy_grpc_send
    proxy_grpc_stream proxy_http_call proxy_register_shared_queue proxy_resolve_shared_queue proxy_set_buffer_bytes
    proxy_set_header_map_pairs
}
