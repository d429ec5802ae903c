//! Tests of `spec`: every offset, bit and value is written down a second time here, as the specification has it.
#![forbid(unsafe_code)]

mod command;
mod feature;
mod identify;
mod log;
mod registers;
mod status;

/// Checks where fields of a structure lie, in bytes.
macro_rules! assert_offsets {
    ($type:ty, $($field:ident $offset:literal),* $(,)?) => {
        $(assert_eq!(
            core::mem::offset_of!($type, $field),
            $offset,
            "offset of {}::{}",
            stringify!($type),
            stringify!($field)
        );)*
    };
}

/// Checks that the bits of a field, and no others, make the field all ones: `field low..=high`.
macro_rules! assert_bits {
    ($type:ty as $raw:ty, $($field:ident $low:literal ..= $high:literal),* $(,)?) => {
        $(
            let mask: $raw = <$raw>::MAX >> (<$raw>::BITS - 1 - ($high - $low)) << $low;
            let field = u64::from(<$type>::from_bits(mask).$field());
            assert_eq!(field, u64::MAX >> (63 - ($high - $low)), "bits of {}", stringify!($field));
            assert_eq!(u64::from(<$type>::from_bits(!mask).$field()), 0, "bits outside of {}", stringify!($field));
        )*
    };
}

use {assert_bits, assert_offsets};
