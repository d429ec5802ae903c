//! Parcels: what one slot of a mailbox brings. One outcome, or up to three that are no more than a code and a word each, since what an outcome costs is mostly the way of its
//! cache line.
#![forbid(unsafe_code)]

use super::outcome::Outcome;

/// What a mailbox's messages are answered with.
pub trait Answer: Sized {
    /// What it comes to, if it is no more than that and need not be dropped.
    fn to_word(&self) -> Option<Word>;

    /// The answer that came to this word.
    fn of_word(word: Word) -> Self;
}

/// A small answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// What kind of answer it is.
    pub code: u16,
    /// What it says.
    pub value: u64,
}

/// An outcome on its way back. In the ring it stands for the credit that its message took along.
pub(crate) struct Reply<R> {
    pub(super) token: u64,
    pub(super) outcome: Outcome<R>,
}

impl<R: Answer> Reply<R> {
    fn to_word(&self) -> Option<Word> {
        match &self.outcome {
            Outcome::Completed(answer) => answer.to_word(),
            Outcome::Aborted(_) => None,
        }
    }
}

/// The most words of a parcel: as many as fit a cache line.
const MOST: usize = 3;

/// What a slot brings.
pub(crate) enum Parcel<R> {
    One(Reply<R>),
    Words(Words),
}

/// Two or three replies that are words.
pub(crate) struct Words {
    tokens: [u64; MOST],
    values: [u64; MOST],
    codes: [u16; MOST],
    len: Len,
}

/// An enumeration, whose unused values tell the kinds of parcels apart: for a word of its own there is no room.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Len {
    Two = 2,
    Three,
}

impl<R> Parcel<R> {
    /// How many replies it brings, and so credits.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Words(words) => words.len(),
        }
    }
}

impl<R: Answer> Parcel<R> {
    /// How many of these replies (1 or more), from the first on, one parcel takes.
    #[inline(always)]
    pub(super) fn room_for(replies: &[Reply<R>]) -> usize {
        replies.iter().take(MOST).take_while(|reply| reply.to_word().is_some()).count().max(1)
    }
}

impl Words {
    /// As many as [`Parcel::room_for`] found room for, two or three: all of them are words.
    #[inline(always)]
    pub(super) fn of<R: Answer>(replies: &[Reply<R>]) -> Self {
        let (mut tokens, mut values, mut codes) = ([0; MOST], [0; MOST], [0; MOST]);
        for (index, reply) in replies.iter().take(MOST).enumerate() {
            let Some(word) = reply.to_word() else { unreachable!("it was one") };
            (tokens[index], values[index], codes[index]) = (reply.token, word.value, word.code);
        }
        let len = if replies.len() == 2 { Len::Two } else { Len::Three };
        Self { tokens, values, codes, len }
    }

    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// The one of `index`, below [`Words::len`], with its token.
    #[inline(always)]
    pub(super) fn get(&self, index: usize) -> (u64, Word) {
        (self.tokens[index], Word { code: self.codes[index], value: self.values[index] })
    }
}
