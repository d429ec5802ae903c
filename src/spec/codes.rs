//! How a set of one-byte codes is declared: an open newtype that keeps every value, a constant and a name for each known one.
//!
//! The codes themselves live in the modules that use them.
#![forbid(unsafe_code)]

/// Declares an open newtype over `u8` with a constant, and a name as the specification writes it, for each known code. The number after
/// `vendor` is where vendor specific codes begin.
macro_rules! codes {
    ($(#[$doc:meta])* $type:ident, vendor $vendor:literal; $($constant:ident = $value:literal, $name:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(pub u8);

        impl $type {
            $(#[doc = $name] pub const $constant: Self = Self($value);)*

            /// The specification's name, or what kind of code it is where it has none.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($value => $name,)*
                    $vendor.. => "Vendor Specific",
                    _ => "Unknown",
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{} ({:#04x})", self.name(), self.0)
            }
        }
    };
}

pub(super) use codes;
