//! Role `guard`, an attempt is answered: whether Envoy may retry the response, and who pays for that.

use super::attempt::{Attempt, State, tagged};
use super::correlate::ClusterId;
use super::decision::{RATE_LIMITED, ResponseDecision, Verdict};
use super::event::{Veto, What};
use super::host::{Host, StreamId};
use super::request::Managed;
use super::view::{Phase, View};
use super::worker::Worker;
use crate::retry::budget::Charge;
use crate::retry::reason::Reason;
use crate::retry::{NOT_SENT, Plan};
use crate::signal::{Answer, Signal, proxy_status};

impl Worker {
    /// Response headers of an attempt. A response is marked if it must not be retried, or if the budget does not pay
    /// for its retry. The mark ends the retries, and the client gets the response as it is.
    pub fn on_attempt_response<H: Host>(
        &mut self,
        stream: StreamId,
        host: &H,
        end_of_stream: bool,
    ) -> ResponseDecision {
        let view = &View::new(host, Phase::Headers);
        self.last_attempt = None;
        if self.attempts.get(stream.0).is_none() {
            self.attempts.insert(stream.0, Attempt::default());
        }
        let number = self.attempts.get_mut(stream.0).map_or(0, |attempt| {
            if attempt.state == State::Running {
                attempt.state = State::Answered;
            }
            attempt.number
        });
        // Only `guard` may set it: Envoy would retry even a success that bears it.
        let remove = self.uses_retriable_header.then_some(NOT_SENT);
        let decision = self.attempt_answered(number, end_of_stream, view).unwrap_or_default();
        let decision = ResponseDecision { remove, ..decision };
        if self.enforces() { decision } else { decision.in_shadow() }
    }

    fn attempt_answered<H: Host>(
        &mut self,
        number: u64,
        end_of_stream: bool,
        view: &View<'_, H>,
    ) -> Option<ResponseDecision> {
        let answer = view.error_answer(end_of_stream)?;
        let managed = self.managed(tagged(view.host)?)?;
        let fate = self.fate(&managed, &answer, number, view)?;
        let marked = view.response_header(RATE_LIMITED).is_some();
        match fate {
            Fate::PushedBack { vetoed } => {
                if vetoed {
                    self.report(managed.routed.cluster, What::Vetoed(Veto::Pushback));
                }
                self.give_reason(managed.id, Reason::Pushback);
                // No hop above may retry it either, so the client sees the mark.
                (!marked).then_some(ResponseDecision {
                    verdict: Some(Verdict::Pushback),
                    ..ResponseDecision::marked(RATE_LIMITED)
                })
            }
            Fate::Left { not_sent } => {
                if not_sent && let Some(request) = self.requests.get_mut(managed.id.0) {
                    request.last_not_sent = true;
                }
                // The mark stops a retry by the route's own policy, and `decide` removes it before hops above see it.
                // If the request was not sent, the mark stays, since no hop above may retry it either.
                (!marked && self.enforces()).then(|| {
                    if !not_sent {
                        self.strip_from_response(managed.id, RATE_LIMITED);
                    }
                    ResponseDecision::marked(RATE_LIMITED)
                })
            }
            // In shadow mode, the retry is charged when it happens.
            Fate::Retried { .. } if marked || !self.enforces() => None,
            Fate::Retried { by_status, unsent } => self.retry_is_due(&managed, by_status, unsent, view),
        }
    }

    /// What becomes of the answer to the n-th attempt of a request. `None` where Weir has no say, or if it was the last
    /// attempt that the policy allows.
    fn fate<H: Host>(&self, managed: &Managed, answer: &Answer<'_>, number: u64, view: &View<'_, H>) -> Option<Fate> {
        let signal = answer.signal()?;
        let policy = self.retry_policy(managed.routed)?;
        let most = managed.reservation.map_or(policy.max_retries, |reservation| reservation.granted);
        let retries_left = number <= u64::from(most);
        let by_status = managed.plan.permits(policy, Signal::Error, answer);
        let stated = managed.plan != Plan::Nothing && view.not_processed(policy);
        let named = self.requests.get(managed.id.0).is_some_and(|request| request.names_not_sent);
        if signal == Signal::Pushback {
            // Envoy retries it at another host only if the request's headers named the mark when it arrived, or if it
            // retries by the status.
            let elsewhere = (named || by_status)
                && (managed.plan.repeats() || stated)
                && retries_left
                && self.others_take(managed.routed.cluster);
            return Some(if elsewhere {
                Fate::Retried { by_status, unsent: false }
            } else {
                Fate::PushedBack { vetoed: by_status && retries_left }
            });
        }
        let unsent = signal == Signal::Error && managed.plan != Plan::Nothing && was_not_sent(view);
        let not_sent = named && !by_status && (stated || unsent);
        match by_status || not_sent {
            true if retries_left => Some(Fate::Retried { by_status, unsent }),
            true if by_status => None,
            _ => Some(Fate::Left { not_sent }),
        }
    }

    /// Envoy is to retry an answer, by its status or by a mark. It does so if the budget pays for the retry.
    fn retry_is_due<H: Host>(
        &mut self,
        managed: &Managed,
        by_status: bool,
        unsent: bool,
        view: &View<'_, H>,
    ) -> Option<ResponseDecision> {
        if self.charge_retry(managed, !by_status && unsent, view) == Charge::Denied {
            self.give_reason(managed.id, Reason::Budget);
            return Some(ResponseDecision {
                verdict: Some(Verdict::BudgetExhausted),
                ..ResponseDecision::marked(RATE_LIMITED)
            });
        }
        if let Some(request) = self.requests.get_mut(managed.id.0) {
            request.retries.pay_ahead();
        }
        // Where Envoy does not retry by the status, the mark makes it retry.
        (!by_status).then(|| {
            self.strip_from_response(managed.id, NOT_SENT);
            ResponseDecision::marked(NOT_SENT)
        })
    }

    /// Whether hosts other than the one that pushes back take requests.
    fn others_take(&self, cluster: ClusterId) -> bool {
        let outliers = self.clusters.get(cluster).and_then(|cluster| cluster.outliers.as_ref());
        outliers.is_some_and(|outliers| outliers.others_take(self.wall_clock))
    }

    fn strip_from_response(&mut self, request: StreamId, header: &'static str) {
        if let Some(request) = self.requests.get_mut(request.0) {
            request.strip_response_header = Some(header);
        }
    }
}

/// What becomes of an answer that is an error.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// The upstream says not to repeat the request.
    PushedBack {
        /// Whether Envoy would have repeated it.
        vetoed: bool,
    },
    /// Envoy retries it if the budget pays for the retry.
    Retried {
        /// Whether Envoy retries by the status of the answer.
        by_status: bool,
        /// Whether a proxy in front of the upstream did not send the request on.
        unsent: bool,
    },
    /// Weir does not let it be retried.
    Left {
        /// Whether the upstream did not process the request, so that it would be retried if one more retry were allowed.
        not_sent: bool,
    },
}

/// Whether the answer is that of a proxy in front of the upstream that had no connection to send the request on, and
/// says so without a doubt. See [`proxy_status`] on what Envoy states, and why its `proxy-status` alone is not enough.
fn was_not_sent<H: Host>(view: &View<'_, H>) -> bool {
    proxy_status::signal(view.proxy_status()) == Some(Signal::Refused)
        && view.response_header("x-envoy-attempt-count").is_some_and(|count| &*count == b"1")
        && view.response_header("x-envoy-upstream-service-time").is_none()
}
