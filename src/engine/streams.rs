//! Streams speak for their hosts while they run: response headers are an answer, and the end of a WebSocket, of events or of a long
//! poll may be hours away.
//!
//! An ordinary response is over a moment after its headers, and its attempt is told then; so this looks, on the timer, only at
//! those that go on for longer. What is calm costs nothing more by that.

use std::time::Duration;

use super::correlate::ClusterId;
use super::host::{Host, Property, StreamId};
use super::view::View;
use super::worker::Worker;
use crate::base::time::Time;
use crate::outlier::EndedAttempt;
use crate::signal::Signal;

/// A response that goes on for so long is a stream.
const GOES_ON: Duration = Duration::from_millis(50);

impl Worker {
    /// The streams that began a moment ago, and go on, are told as answers of their hosts.
    pub(super) fn running_streams_speak<H: Host>(&mut self, view: &View<'_, H>) {
        let now = self.wall_clock;
        while let Some(stream) = self.running.front().copied() {
            if let Some(request) = self.requests.get_mut(stream.0)
                && let (Some(answered), Some(cluster), false) = (request.answered, request.cluster, request.spoke)
            {
                if now.is_soon_after(GOES_ON, answered) {
                    return;
                }
                request.spoke = true;
                let (arrived, steered) = (request.arrived, request.route.is_steered());
                self.stream_runs(stream, cluster, (arrived, answered), steered, view);
            }
            self.running.pop_front();
        }
    }

    fn stream_runs<H: Host>(
        &mut self,
        stream: StreamId,
        cluster: ClusterId,
        (arrived, answered): (Time, Time),
        steered: bool,
        view: &View<'_, H>,
    ) {
        let (now, enforces, steers) = (self.wall_clock, self.enforces(), self.policies.steering().is_some());
        let property = |property| view.host.property_of(stream, property).ok().flatten();
        let status = property(Property::Code).and_then(|code| code.first_chunk().copied()).map(u64::from_le_bytes);
        if status.is_none_or(|status| status >= 500 || status == 429) {
            return;
        }
        let Some(address) = property(Property::UpstreamAddress) else { return };
        let Ok(address) = std::str::from_utf8(&address) else { return };
        let Some(state) = self.clusters.get_mut(cluster) else { return };
        state.circuit.iter_mut().for_each(|circuit| circuit.attempt_ended(Signal::Answered, arrived, now));
        state.account.iter_mut().for_each(|account| account.attempt_ended(Signal::Answered, now));
        let Some(outliers) = &mut state.outliers else { return };
        let attempt =
            EndedAttempt { host: Some(address), signal: Signal::Answered, began: arrived, weight: 1, picked: false };
        let told = outliers.stream_runs(&attempt, answered, now);
        if steers && (!steered || !enforces) {
            outliers.picked(address, now);
        }
        if told {
            self.exchange_hosts(cluster, view);
        }
    }
}
