//! Aborts that messages ask for: of messages that are held, that wait for their next try, or that the controller has. Those of commands that take too long are
//! [`super::recovery`]'s business.
#![forbid(unsafe_code)]

use super::bring_up::EXTERNAL_QID;
use super::core::{Core, Owner, Phase};
use super::execute::Held;
use super::message::{Reply, Responder};
use crate::ring::{AbortReason, Aborted, MailboxId, Outcome};
use crate::spec::command::Command;

impl Core {
    /// Aborts the message that answers to `mailbox` under `token`, as far as that can be done. An Abort is never held: by the time there is room for it, its
    /// command identifier may be another command's.
    #[cold]
    pub(super) fn abort_message(&mut self, mailbox: MailboxId, token: u64, responder: Responder) {
        if self.end_early(mailbox, token) {
            return responder.deliver(Outcome::Completed(Reply::Called(1)));
        }
        let external = self.external.as_ref();
        let of_external = external.and_then(|pair| pair.find_cid(|theirs| theirs.is_of(mailbox, token)));
        let is_it = |owner: &Owner| matches!(owner, Owner::Message(theirs) | Owner::Abort(theirs) if theirs.is_of(mailbox, token));
        let found = of_external
            .map(|cid| (EXTERNAL_QID, cid))
            .or_else(|| self.admin.find_cid(is_it).map(|cid| (0, cid)));
        let can_ask =
            matches!(self.phase, Phase::Running) && self.has_room_beside_driver() && !self.admin.is_full();
        match found.filter(|_| can_ask) {
            Some((sqid, cid)) => {
                if let Some(retries) = &mut self.retries {
                    retries.forbid(sqid == 0, cid);
                }
                let command = Command::abort(sqid, cid);
                self.start_message(Held { is_admin: true, command, data: None, responder });
            }
            None => responder.deliver(Outcome::Completed(Reply::Called(0))),
        }
    }

    /// Ends a message that is not at the device; false if it is not among those.
    #[cold]
    pub(super) fn end_early(&mut self, mailbox: MailboxId, token: u64) -> bool {
        self.abort_held(mailbox, token) || self.abort_waiting(mailbox, token)
    }

    /// Aborts a message that has not reached the device; false if it is not among those.
    fn abort_held(&mut self, mailbox: MailboxId, token: u64) -> bool {
        let at = self.held.iter().position(|held| held.responder.is_of(mailbox, token));
        let Some(held) = at.and_then(|at| self.held.remove(at)) else { return false };
        held.responder.deliver(Outcome::Aborted(Aborted::unexecuted(AbortReason::Requested)));
        true
    }
}
