//! Messages in their slots: a [`Place`] waits to be filled, a [`Taken`] one to be looked at and moved out.
//!
//! So a message of many kinds is written, and read, where it lies by the code that knows its kind, and never copied whole from one place to another.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;

/// Makes the places of different calls different types.
type Brand<'place> = PhantomData<fn(&'place ()) -> &'place ()>;

/// Where one value goes.
pub struct Place<'place, T> {
    slot: *mut T,
    brand: Brand<'place>,
}

/// The proof that the place of the same brand was filled.
pub struct Filled<'place>(Brand<'place>);

impl<T> Place<'_, T> {
    /// The place at `slot`.
    ///
    /// # Safety
    /// `slot` is valid for a write of `T`, and nobody else's, as long as this value lives.
    #[inline(always)]
    pub(super) unsafe fn new(slot: *mut T) -> Self {
        Self { slot, brand: PhantomData }
    }
}

impl<'place, T> Place<'place, T> {
    /// Writes the value.
    #[inline(always)]
    pub fn fill(self, value: T) -> Filled<'place> {
        // SAFETY: the maker vouched for the slot.
        unsafe { self.slot.write(value) };
        Filled(PhantomData)
    }
}

/// A message that was taken and lies in its slot still. Dropped with this, if it is not moved out.
pub struct Taken<'slot, T> {
    slot: *mut T,
    slots: PhantomData<&'slot mut T>,
}

impl<'slot, T> Taken<'slot, T> {
    /// The message at `slot`.
    ///
    /// # Safety
    /// `slot` holds a value, which is this one's from now on, and nobody else's as long as this lives.
    #[inline(always)]
    pub(super) unsafe fn new(slot: *mut T) -> Self {
        Self { slot, slots: PhantomData }
    }

    /// Lends `message` to `each`, as a ring would.
    #[inline(always)]
    pub(crate) fn lend(message: T, each: impl FnOnce(Taken<'_, T>)) {
        let mut message = ManuallyDrop::new(message);
        // SAFETY: a value, and not dropped by its owner any more.
        each(unsafe { Taken::new(&raw mut *message) });
    }

    /// The part of it that `find` finds, and what else there is forgotten; or all of it again.
    #[inline(always)]
    pub fn part<U>(self, find: impl FnOnce(&mut T) -> Option<&mut U>) -> Result<Taken<'slot, U>, Self> {
        // SAFETY: a value that is ours.
        match find(unsafe { &mut *self.slot }) {
            Some(part) => {
                let part: *mut U = part;
                std::mem::forget(self);
                // SAFETY: a value within ours, which nothing else leads to any more.
                Ok(unsafe { Taken::new(part) })
            }
            None => Err(self),
        }
    }

    /// Looks at it.
    #[inline(always)]
    pub fn get(&self) -> &T {
        // SAFETY: a value that is ours.
        unsafe { &*self.slot }
    }

    /// Where it lies; it is not dropped with this any more.
    #[inline(always)]
    pub(super) fn into_raw(self) -> *mut T {
        ManuallyDrop::new(self).slot
    }

    /// Moves it out.
    #[inline(always)]
    pub fn take(self) -> T {
        // SAFETY: a value that is ours, read once: `self` is gone, and does not drop it.
        unsafe { self.into_raw().read() }
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        // SAFETY: a value that is ours, and that nobody looks at from now on.
        unsafe { self.slot.drop_in_place() };
    }
}

impl<T> std::fmt::Debug for Place<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Place")
    }
}

impl std::fmt::Debug for Filled<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Filled")
    }
}

impl<T> std::fmt::Debug for Taken<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Taken")
    }
}
