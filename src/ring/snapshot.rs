//! The one pointer that is published: arc-swap, or under loom (which cannot see into arc-swap) a stand-in with its orderings.

#[cfg(not(loom))]
mod real {
    use arc_swap::{ArcSwapOption, Cache};
    use std::sync::Arc;

    /// An optional `Arc<T>` that any thread can replace.
    #[derive(Debug)]
    pub(crate) struct Snapshot<T>(Arc<ArcSwapOption<T>>);

    impl<T> Clone for Snapshot<T> {
        fn clone(&self) -> Self {
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> Snapshot<T> {
        pub(crate) fn new() -> Self {
            Self(Arc::new(ArcSwapOption::empty()))
        }

        /// Replaces what is published (SeqCst, as arc-swap documents) and returns what was.
        pub(crate) fn swap(&self, value: Option<Arc<T>>) -> Option<Arc<T>> {
            self.0.swap(value)
        }

        pub(crate) fn cached(&self) -> CachedSnapshot<T> {
            CachedSnapshot(Cache::new(Arc::clone(&self.0)))
        }
    }

    /// A reader's copy, which keeps its value alive until the next look.
    pub(crate) struct CachedSnapshot<T>(Cache<Arc<ArcSwapOption<T>>, Option<Arc<T>>>);

    impl<T> CachedSnapshot<T> {
        /// Looks again: one relaxed load and a compare when nothing changed.
        pub(crate) fn load(&mut self) -> Option<Arc<T>> {
            self.0.load().clone()
        }
    }
}

#[cfg(loom)]
mod model {
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::sync::{Arc, Mutex};

    /// The stand-in: a version that a reader loads Relaxed, as `arc_swap::Cache` loads the pointer, and the value behind a mutex.
    #[derive(Debug)]
    pub(crate) struct Snapshot<T>(Arc<Inner<T>>);

    #[derive(Debug)]
    struct Inner<T> {
        version: AtomicUsize,
        value: Mutex<Option<Arc<T>>>,
    }

    impl<T> Clone for Snapshot<T> {
        fn clone(&self) -> Self {
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> Snapshot<T> {
        pub(crate) fn new() -> Self {
            Self(Arc::new(Inner { version: AtomicUsize::new(0), value: Mutex::new(None) }))
        }

        pub(crate) fn swap(&self, value: Option<Arc<T>>) -> Option<Arc<T>> {
            let mut current = self.0.value.lock().unwrap();
            let old = std::mem::replace(&mut *current, value);
            drop(current);
            self.0.version.fetch_add(1, Ordering::SeqCst);
            old
        }

        pub(crate) fn cached(&self) -> CachedSnapshot<T> {
            CachedSnapshot { source: Arc::clone(&self.0), version: 0, value: None }
        }
    }

    pub(crate) struct CachedSnapshot<T> {
        source: Arc<Inner<T>>,
        version: usize,
        value: Option<Arc<T>>,
    }

    impl<T> CachedSnapshot<T> {
        pub(crate) fn load(&mut self) -> Option<Arc<T>> {
            let version = self.source.version.load(Ordering::Relaxed);
            if version != self.version {
                self.value = self.source.value.lock().unwrap().clone();
                self.version = version;
            }
            self.value.clone()
        }
    }
}

#[cfg(loom)]
pub(crate) use model::{CachedSnapshot, Snapshot};
#[cfg(not(loom))]
pub(crate) use real::{CachedSnapshot, Snapshot};
