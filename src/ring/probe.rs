//! The external part of a poll by itself, for the comparison and the benches: what [`crate::poller::Poller::poll`] does for messages, without a controller around
//! it. Not part of the interface.

use super::attention::Attention;
use super::mpsc::PushError;
use super::scheme::{Channel, Quiet, Receiver, Scheme, Sender};
use crate::sync::Arc;
use std::fmt;

/// As large as a real message with its responder.
type Message = [u64; 14];
type ChannelOf<S> = <S as Scheme>::Channel<Message>;

/// One published ring, with its sender and its receiver on one thread.
pub struct Probe<S: Scheme> {
    attention: Arc<Attention>,
    receiver: <ChannelOf<S> as Channel<Message>>::Receiver,
    sender: <ChannelOf<S> as Channel<Message>>::Sender,
    channel: ChannelOf<S>,
}

impl<S: Scheme> Probe<S> {
    /// A published ring of `capacity` slots that its receiver has found.
    pub fn new(capacity: usize) -> Self {
        let attention = Arc::new(Attention::new());
        let (mut channel, receiver) = ChannelOf::<S>::new(&attention);
        let sender = channel.publish(capacity);
        let mut probe = Self { attention, receiver, sender, channel };
        probe.receiver.refresh();
        probe
    }

    /// The external part of one poll: the attention word, what the scheme brackets a poll with, and up to eight messages. Returns how many
    /// there were.
    #[inline(always)]
    pub fn poll(&mut self, mut each: impl FnMut(u64)) -> usize {
        if self.attention.bits() != 0 {
            self.attend();
        }
        self.receiver.enter();
        let taken = self.receiver.receive(8, None, |message| each(message.get()[0]));
        self.receiver.leave();
        taken
    }

    /// Out of the way of polls that have nothing to attend to, as a poller's is.
    #[cold]
    fn attend(&mut self) {
        self.receiver.refresh();
    }

    /// Sends one message; false when the ring is full.
    #[inline]
    pub fn send(&self, value: u64) -> bool {
        let mut message = [0; 14];
        message[0] = value;
        match self.sender.push(message) {
            Ok(()) => true,
            Err(PushError::Full(_) | PushError::Closed(_)) => false,
        }
    }
}

impl<S: Scheme> Drop for Probe<S> {
    fn drop(&mut self) {
        self.receiver.offline();
        let Some(mut retiring) = self.channel.retire() else { return };
        let mut quiet = loop {
            match self.channel.settle(retiring) {
                Ok(quiet) => break quiet,
                Err(again) => retiring = again,
            }
        };
        // Nobody pushes any more: `&mut self` is the last.
        while !quiet.drain(|run| run.for_each(|message| drop(message))) {}
    }
}

impl<S: Scheme> fmt::Debug for Probe<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("scheme", &S::NAME).finish_non_exhaustive()
    }
}
