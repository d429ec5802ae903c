//! The core's commands that are sent again: messages' and the driver's own. Which, and after which delay, is [`super::retry`]'s business.
//!
//! What waits for its next try counts as in flight: a reset, a detach or a removal answers it, its owner's time limit runs on, and its entry of the admin queue
//! stays taken. Nothing here is reached while retries are off, nor while the device answers with success.
#![forbid(unsafe_code)]

use super::core::{Core, Owner, Phase, Purpose, outcome_of};
use super::message::{Reply, Responder};
use super::options::CtrlrOptions;
use super::recovery::Recovery;
use super::retry::{Keeper, Kept, Policy};
use crate::dma::DmaSlice;
use crate::queue::{Pair, RejectReason};
use crate::ring::{MailboxId, Outbox};
use crate::spec::completion::Completion;
use std::time::{Duration, Instant};

/// A completion between the queue and its handling.
pub(super) enum Finished {
    /// Of one of the driver's own commands.
    Driver(Purpose, Completion, Option<DmaSlice>),
    /// An error, where commands may be sent again.
    Failed(Failed),
}

/// A command that came back with an error.
pub(super) struct Failed {
    pub(super) owner: Owner,
    is_admin: bool,
    kept: Kept,
    pub(super) completion: Completion,
    pub(super) data: Option<DmaSlice>,
}

/// One that is to be sent again.
struct Waiting {
    failed: Failed,
    delay: Duration,
    /// From the first look at the time on.
    due: Option<Instant>,
}

/// The state of it.
pub(super) struct Retries {
    admin: Keeper,
    /// From the external pair's first command on.
    external: Option<Keeper>,
    waiting: Vec<Waiting>,
}

impl Retries {
    /// `None` when none are wanted.
    pub(super) fn new(options: &CtrlrOptions, admin: &Pair<Owner>) -> Option<Box<Self>> {
        let retries = Self { admin: Keeper::new(admin), external: None, waiting: Vec::new() };
        (options.retries != 0).then(|| Box::new(retries))
    }

    /// How many wait for their next try on the admin queue.
    pub(super) fn waiting_admin(&self) -> usize {
        self.waiting.iter().filter(|waiting| waiting.failed.is_admin).count()
    }

    /// When the next one is to be sent.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|waiting| waiting.due).min()
    }

    fn keeper(&mut self, is_admin: bool) -> Option<&mut Keeper> {
        if is_admin { Some(&mut self.admin) } else { self.external.as_mut() }
    }

    /// This command is not sent again.
    pub(super) fn forbid(&mut self, is_admin: bool, cid: u16) {
        if let Some(keeper) = self.keeper(is_admin) {
            keeper.forbid(cid);
        }
    }

    /// See [`Keeper::keep_times`].
    pub(super) fn keep_times(&mut self, admin: &mut Pair<Owner>, external: Option<&mut Pair<Responder>>) {
        self.admin.keep_times(admin);
        if let (Some(keeper), Some(external)) = (&mut self.external, external) {
            keeper.keep_times(external);
        }
    }

    /// The watchdogs have looked: what waits was seen as well.
    pub(super) fn see_waiting(&mut self, recovery: &Recovery) {
        for Waiting { failed, .. } in &mut self.waiting {
            failed.kept.is_seen(recovery.watchdog(failed.is_admin).time());
        }
    }

    /// What is kept of a command that completed just now.
    fn kept(&self, is_admin: bool, cid: u16) -> Option<Kept> {
        let keeper = if is_admin { Some(&self.admin) } else { self.external.as_ref() };
        keeper?.kept(cid)
    }

    /// All that wait, for whoever answers them in another way.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Failed> + use<> {
        std::mem::take(&mut self.waiting).into_iter().map(|waiting| waiting.failed)
    }

    fn take_if(&mut self, mut is_wanted: impl FnMut(&mut Waiting) -> bool) -> Vec<Waiting> {
        self.waiting.extract_if(.., |waiting| is_wanted(waiting)).collect()
    }
}

impl Core {
    /// What the device did not answer for good, between its completion and its handling: for a device that has stopped.
    pub(super) fn take_failed(&mut self) -> Vec<Failed> {
        let finished = self.finished.extract_if(.., |finished| matches!(finished, Finished::Failed(_)));
        let failed = |finished| match finished {
            Finished::Failed(failed) => Some(failed),
            Finished::Driver(..) => None,
        };
        let mut all: Vec<Failed> = finished.filter_map(failed).collect();
        all.extend(self.retries.iter_mut().flat_map(|retries| retries.take_all()));
        all
    }

    /// Keeps a command that was submitted just now, if there are retries.
    #[inline]
    pub(super) fn keep(&mut self, is_admin: bool, cid: u16, kept: Kept) {
        if self.retries.is_some() {
            self.keep_it(is_admin, cid, kept);
        }
    }

    #[cold]
    fn keep_it(&mut self, is_admin: bool, cid: u16, kept: Kept) {
        let Some(retries) = &mut self.retries else { return };
        if let (None, Some(external)) = (&retries.external, &self.external) {
            retries.external = Some(Keeper::new(external));
        }
        if let Some(keeper) = retries.keeper(is_admin) {
            keeper.keep(cid, kept);
        }
    }

    /// A command failed: it waits for its next try, or has come to its end.
    pub(super) fn retry_or_finish(&mut self, failed: Failed) {
        let Some(delay) = self.retry_delay(&failed) else { return self.finish_failed(failed) };
        let (qid, status) = (failed.completion.sqid, failed.completion.status());
        tracing::debug!(qid, %status, ?delay, tries = failed.kept.tries, "a command is sent again");
        if let Some(retries) = &mut self.retries {
            retries.waiting.push(Waiting { failed, delay, due: None });
            self.look_at_time_soon();
        }
    }

    fn retry_delay(&self, failed: &Failed) -> Option<Duration> {
        let is_possible = can_send(&self.phase, &failed.owner);
        let identity = self.hub.identity.load();
        let policy = Policy {
            retries: self.hub.options.retries,
            is_admin: failed.is_admin,
            identity: identity.as_deref(),
            limit: self.limit_of(failed),
            watchdog: self.recovery.watchdog(failed.is_admin),
        };
        policy.delay(&failed.kept, failed.completion.status()).filter(|_| is_possible)
    }

    /// How long it may take, all tries together.
    fn limit_of(&self, failed: &Failed) -> Duration {
        let options = &self.hub.options;
        match failed.owner {
            Owner::Message(_) if !failed.is_admin => options.timeouts.io,
            Owner::Message(_) | Owner::Abort(_) => options.timeouts.of_admin(failed.kept.command.opcode),
            Owner::Driver(_) => options.admin_timeout,
        }
    }

    /// Answers a command with what it came to.
    pub(super) fn finish_failed(&mut self, failed: Failed) {
        let Failed { owner, completion, data, .. } = failed;
        match owner {
            Owner::Message(responder) | Owner::Abort(responder) => {
                responder.deliver(outcome_of(completion, data));
            }
            Owner::Driver(purpose) => self.finish(purpose, completion, data),
        }
    }

    /// Sends again what is due. What has found no room until its time is over is answered with what it came to before.
    pub(super) fn send_again(&mut self, now: Instant) {
        let Some(retries) = &mut self.retries else { return };
        let phase = &self.phase;
        let due = retries.take_if(|waiting| {
            let due = *waiting.due.get_or_insert(now + waiting.delay);
            due <= now && can_send(phase, &waiting.failed.owner)
        });
        if due.is_empty() {
            return;
        }
        for Waiting { failed, .. } in due {
            if failed.kept.waited(self.recovery.watchdog(failed.is_admin)) < self.limit_of(&failed) {
                self.resubmit(failed, now);
            } else {
                self.finish_failed(failed);
            }
        }
        self.commit();
        // For whoever was answered; this may be after the rest of the poll.
        self.hub.waiters.bell().ring();
    }

    /// Once more the same command with the same data; later, if there is no room now.
    fn resubmit(&mut self, failed: Failed, now: Instant) {
        let Failed { owner, is_admin, kept, completion, data } = failed;
        let rejected = if is_admin {
            match self.admin.submit(kept.command, data, owner) {
                Ok(cid) => return self.was_sent_again(true, cid, kept),
                Err(rejected) => (rejected.reason, rejected.data, rejected.request),
            }
        } else {
            let (Some(external), Owner::Message(responder)) = (&mut self.external, owner) else {
                unreachable!("messages alone use the external pair, which stays once it is there");
            };
            match external.submit(kept.command, data, responder) {
                Ok(cid) => return self.was_sent_again(false, cid, kept),
                Err(rejected) => (rejected.reason, rejected.data, Owner::Message(rejected.request)),
            }
        };
        let (reason, data, owner) = rejected;
        let failed = Failed { owner, is_admin, kept, completion, data };
        match &mut self.retries {
            Some(retries) if reason == RejectReason::QueueFull => {
                retries.waiting.push(Waiting { failed, delay: Duration::ZERO, due: Some(now) });
            }
            _ => self.finish_failed(failed),
        }
    }

    fn was_sent_again(&mut self, is_admin: bool, cid: u16, kept: Kept) {
        self.hub.statistics.retries.add(1);
        self.keep(is_admin, cid, kept.again());
    }

    /// A take-down begins: what waits of the driver's own has failed.
    pub(super) fn give_up_retries(&mut self) {
        let Some(retries) = &mut self.retries else { return };
        let own = retries.take_if(|waiting| matches!(waiting.failed.owner, Owner::Driver(_)));
        for waiting in own {
            self.finish_failed(waiting.failed);
        }
    }

    /// Ends a message that waits for its next try, with what it came to before; false when there is no such message.
    pub(super) fn abort_waiting(&mut self, mailbox: MailboxId, token: u64) -> bool {
        let Some(retries) = &mut self.retries else { return false };
        let is_it = |waiting: &mut Waiting| matches!(&waiting.failed.owner, Owner::Message(theirs) if theirs.is_of(mailbox, token));
        let found = retries.take_if(is_it);
        let is_found = !found.is_empty();
        for waiting in found {
            self.finish_failed(waiting.failed);
        }
        is_found
    }
}

/// A completion with an error, on its way to who decides whether the command is sent again, or straight to its owner.
#[cold]
pub(super) fn failed(
    outbox: &mut Outbox<Reply>,
    finished: &mut Vec<Finished>,
    retries: Option<&Retries>,
    owner: Owner,
    is_admin: bool,
    completion: Completion,
    data: Option<DmaSlice>,
) {
    let kept = retries.and_then(|retries| retries.kept(is_admin, completion.cid));
    match (kept, owner) {
        (Some(kept), owner) => {
            finished.push(Finished::Failed(Failed { owner, is_admin, kept, completion, data }));
        }
        (None, Owner::Message(responder) | Owner::Abort(responder)) => {
            outbox.deliver(responder, outcome_of(completion, data));
        }
        (None, Owner::Driver(purpose)) => finished.push(Finished::Driver(purpose, completion, data)),
    }
}

/// Whether a command of `owner` may be sent now.
fn can_send(phase: &Phase, owner: &Owner) -> bool {
    match phase {
        Phase::Running => true,
        Phase::BringingUp(_) => matches!(owner, Owner::Driver(_)),
        Phase::TakingDown(_) | Phase::Stopped => false,
    }
}
