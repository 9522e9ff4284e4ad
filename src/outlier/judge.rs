//! What the end of an attempt comes to: a host goes out, stays out, or comes back.

use std::time::Duration;

use super::{EndedAttempt, Event, FEW, Outliers};
use crate::base::time::Time;
use crate::outlier::detector::{Failure, Outcome, is_common, is_outlier, is_usual};
use crate::outlier::ejection::{Standing, Verdict};
use crate::outlier::hosts::Host;
use crate::outlier::shared::Change;

/// What failed within this time need not be tried again.
pub(super) const JUST: Duration = Duration::from_millis(250);
/// How long those that are out are waited for, when those that are in fail.
const DESPAIR: Duration = Duration::from_secs(1);

impl Outliers {
    /// An attempt ended. Whether to [exchange](Self::exchange) at once: there is something to say, or reason to ask whether
    /// another worker knows more.
    pub fn attempt_ended(&mut self, attempt: &EndedAttempt<'_>, now: Time) -> bool {
        let Some(address) = attempt.host else { return false };
        let Some(place) = self.hosts.seen(address, now) else { return false };
        let (interval, me) = (self.policy.interval, self.me);
        let outcome = Outcome::from(attempt.signal);
        // What followed an answer is not followed in turn: else a host that gets more gets ever more.
        let follows = self.hosts.at_mut(place).is_some_and(|host| {
            let follows = host.followed > 0;
            host.followed = host.followed.saturating_sub(1);
            follows
        });
        if outcome == Outcome::Answered {
            if !follows {
                self.hosts.heard(place, now);
            }
            if attempt.weight <= 1 {
                self.steering.took(attempt.began, now);
            }
        }
        let Some(host) = self.hosts.at_mut(place) else { return false };
        // One that takes too long for a hedge or a timeout has not said anything yet.
        if !matches!(outcome, Outcome::Nothing | Outcome::Failed(Failure::Timeout)) {
            (host.asked, host.silences) = (Time::default(), 0);
        }
        let mut failed = None;
        match (&mut host.standing, outcome) {
            (Standing::In(health), Outcome::Answered) if health.concerns(attempt.began) => {
                let answers = attempt.weight.max(1);
                host.answers = host.answers.saturating_add(answers);
                health.answered(now, interval);
                self.hosts.answered(place, answers);
            }
            (Standing::In(health), Outcome::Failed(failure)) if health.concerns(attempt.began) => {
                health.failed(now, interval);
                failed = Some((failure, host.evident(now)));
            }
            (Standing::Out(out), outcome) if out.concerns(attempt.began, me) => {
                self.verdict(place, outcome, attempt.began, now);
            }
            _ => {}
        }
        if attempt.picked {
            self.picked_at(place);
        }
        if let Some((failure, answers)) = failed {
            self.pending.push(Change::See(address.into(), Some(failure), answers));
            self.failed(place, failure, true, now);
        }
        self.pending.iter().any(|change| !matches!(change, Change::See(_, None, _)))
    }

    /// Whether some host that is in answered its latest attempt, and that within this time.
    #[must_use]
    pub fn some_host_answers(&self, within: Duration, now: Time) -> bool {
        self.hosts.present(now).any(|host| now.since(host.seen) < within && host.record.answered_in_a_row() > 0)
    }

    /// The end of an attempt on a host that this worker probes.
    fn verdict(&mut self, place: usize, outcome: Outcome, began: Time, now: Time) {
        // What is usual elsewhere, too, is no fault of this host.
        let outcome = match outcome {
            Outcome::Failed(failure) if is_usual(&self.hosts.others(place, now), failure) => Outcome::Answered,
            outcome => outcome,
        };
        let policy = self.policy;
        let enough = if self.is_desperate(now) || now.since(self.lost) < JUST { 1 } else { policy.probe_successes };
        // What others were faster than was lost, though it says nothing.
        let patience = Duration::from_nanos(self.steering.patience().unwrap_or(u64::MAX));
        let Some(out) = self.hosts.out_at(place) else { return };
        let cheap = match outcome {
            Outcome::Answered => true,
            Outcome::Failed(_) => false,
            Outcome::Nothing => now.since(began) < patience,
        };
        let refund = if cheap { out.paid(began) } else { 0 };
        self.purse.refund(refund);
        let verdict = match outcome {
            Outcome::Answered => out.answered(began, enough, now),
            Outcome::Failed(failure) => out.failed(failure, began, &policy, now),
            Outcome::Nothing => {
                out.no_verdict(began);
                Verdict::None
            }
        };
        let change = match verdict {
            Verdict::None => return,
            Verdict::Extended => Change::Extend(out.ejection.clone()),
            Verdict::Readmitted => {
                // It was back at some time since it last failed.
                let ejection = &out.ejection;
                let back = (ejection.failed.as_nanos() / 4).saturating_add(now.as_nanos() / 4 * 3);
                let down = back.saturating_sub(ejection.since.as_nanos());
                self.usual = if self.usual == 0 { down } else { self.usual - self.usual / 4 + down / 4 };
                Change::Readmit(ejection.address.clone())
            }
        };
        // Where most of many hosts are out, they went for one reason, and others will be back as well.
        if verdict == Verdict::Readmitted && self.out > FEW && self.is_scarce(now) {
            self.purse.refund(self.price(now));
        }
        self.pending.push(change);
    }

    /// An attempt on a host that is in failed: one of this worker's (`mine`), or of another.
    pub(super) fn failed(&mut self, place: usize, failure: Failure, mine: bool, now: Time) {
        self.hosts.failed(place, failure, now);
        self.troubled = now;
        if failure != Failure::Error {
            self.broken = now;
        }
        if self.all_fail(now) {
            self.despair(now);
            return;
        }
        let others = self.hosts.others(place, now);
        let Some(host) = self.hosts.at(place) else { return };
        let Standing::In(health) = &host.standing else { return };
        let mut policy = self.policy;
        // Hosts go down one after the other, so it is hardly a stray one.
        if self.is_poor(now) {
            policy.reset.count = policy.reset.count.div_ceil(2);
        }
        if !is_outlier(&policy, &host.record, failure, &others, now) {
            return;
        }
        let most = self.policy.most_out(self.hosts.known(now));
        if self.out >= most {
            // Told once, by the worker that saw it.
            if mine {
                self.tell(Event::Detected(host.address.clone(), failure));
            }
        } else {
            let ejection = health.eject(&host.address, failure, self.me, &self.policy, now);
            self.pending.push(Change::Eject(ejection, most));
        }
    }

    /// Those that are in fail. One of those that are out may be back, so all of them are probed at once; if they failed a
    /// moment ago, or nothing was heard of them for too long, the failure is common.
    fn despair(&mut self, now: Time) {
        if !self.is_desperate(now) {
            self.despaired = now;
        }
        self.desperate = now;
        let tried = self.hosts.each_out().all(|(_, _, out)| now.since(out.ejection.failed) < JUST);
        let common = tried || now.since(self.despaired) >= DESPAIR;
        self.pending.push(if common { Change::ReadmitAll } else { Change::Hurry });
    }

    /// Whether all that are in failed a moment ago.
    pub(super) fn is_desperate(&self, now: Time) -> bool {
        self.out > 0 && now.since(self.desperate) < JUST && self.desperate <= now
    }

    /// Whether some hosts are out, and all that are in fail as well: those that took attempts within the interval, and they
    /// are at least half of those that are in.
    fn all_fail(&mut self, now: Time) -> bool {
        let interval = self.policy.interval;
        let heard = |host: &Host| now.since(host.seen) < interval;
        if self.out == 0 || self.hosts.well(&|host| heard(host) && !host.record.is_in_trouble(), now) {
            return false;
        }
        let present = self.hosts.present(now);
        let heard = present.clone().filter(|host| heard(host));
        heard.clone().count() * 2 >= present.count() && is_common(heard.map(|host| &host.record))
    }
}
