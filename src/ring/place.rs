//! A claimed slot that waits for its message, as a type: whoever is given a [`Place`] can only hand back that it was filled.
//!
//! So a message of many kinds is written where it stays by the code that knows its kind, and never copied whole from one place to another.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

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

/// Fills a place with the value at `from`, moved word by word: stored a word at a time not long ago, it is not ready to be read in larger pieces, and
/// the processor would wait until it is.
///
/// # Safety
/// `from` is valid for a read of `T` until the place is filled, and does not count as a value from then on.
#[inline(always)]
pub(super) unsafe fn moved_from<T>(
    from: *const T,
) -> impl for<'place> FnOnce(Place<'place, T>) -> Filled<'place> {
    type Word = MaybeUninit<u64>;
    const {
        assert!(align_of::<T>() == align_of::<Word>() && size_of::<T>().is_multiple_of(size_of::<Word>()));
    }
    move |place| {
        let (mut from, mut to) = (from.cast::<Word>(), place.slot.cast::<Word>());
        for _ in 0..size_of::<T>() / size_of::<Word>() {
            // SAFETY: within the value, and aligned. Volatile, so that words stay words.
            let word = unsafe { from.read_volatile() };
            // SAFETY: within the place, which is as large.
            unsafe { to.write(word) };
            // One past the last word at most, and not read there.
            (from, to) = (from.wrapping_add(1), to.wrapping_add(1));
        }
        Filled(PhantomData)
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
