//! SPDK's controller lock: a pthread mutex that is recursive, robust and process-shared, with the value it protects.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// A value under a recursive, robust, process-shared pthread mutex. Boxed, since the mutex must not move.
#[derive(Debug)]
pub(super) struct RobustLock<T> {
    mutex: Box<UnsafeCell<libc::pthread_mutex_t>>,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached under the mutex only, by `with`; it moves between threads, hence `T: Send`.
unsafe impl<T: Send> Sync for RobustLock<T> {}
// SAFETY: the mutex is boxed and stays in place when the lock moves.
unsafe impl<T: Send> Send for RobustLock<T> {}

impl<T> RobustLock<T> {
    pub(super) fn new(value: T) -> Self {
        let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        let attributes = attributes.as_mut_ptr();
        let mutex = Box::new(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));
        // SAFETY: `attributes` points to storage for them.
        let mut failed = unsafe { libc::pthread_mutexattr_init(attributes) };
        // SAFETY: initialised above.
        failed |= unsafe { libc::pthread_mutexattr_settype(attributes, libc::PTHREAD_MUTEX_RECURSIVE) };
        // SAFETY: as above.
        failed |= unsafe { libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST) };
        // SAFETY: as above.
        failed |= unsafe { libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED) };
        // SAFETY: `mutex` is storage that stays where it is until `drop` destroys the mutex.
        failed |= unsafe { libc::pthread_mutex_init(mutex.get(), attributes) };
        // SAFETY: initialised above, used no more.
        failed |= unsafe { libc::pthread_mutexattr_destroy(attributes) };
        assert_eq!(failed, 0, "glibc refuses no attribute of this mutex");
        Self { mutex, value: UnsafeCell::new(value) }
    }

    /// Locks; each call needs its `unlock` on the same thread.
    #[inline]
    pub(super) fn lock(&self) {
        // SAFETY: initialised in `new`.
        let error = unsafe { libc::pthread_mutex_lock(self.mutex.get()) };
        if error == libc::EOWNERDEAD {
            // SAFETY: this thread holds the lock, whose owner died; the pointer below it is whole at all times.
            unsafe { libc::pthread_mutex_consistent(self.mutex.get()) };
        } else {
            assert_eq!(error, 0, "a recursive mutex that is initialised can be locked");
        }
    }

    #[inline]
    pub(super) fn unlock(&self) {
        // SAFETY: initialised in `new`.
        let error = unsafe { libc::pthread_mutex_unlock(self.mutex.get()) };
        assert_eq!(error, 0, "unlocked by the thread that locked it");
    }

    /// Locks until what is returned is dropped, on the same thread. The value stays within reach of `with`: the mutex is recursive.
    pub(super) fn hold(&self) -> RobustHeld<'_, T> {
        self.lock();
        RobustHeld { lock: self, _not_send: PhantomData }
    }

    /// Runs `access` on the value, locked. `access` must not come here again: the mutex is recursive, `&mut` is not.
    #[inline]
    pub(super) fn with<R>(&self, access: impl FnOnce(&mut T) -> R) -> R {
        self.lock();
        // SAFETY: under the lock; both callers (in this folder) pass closures that call nothing foreign.
        let result = access(unsafe { &mut *self.value.get() });
        self.unlock();
        result
    }
}

/// The mutex, held.
#[derive(Debug)]
pub struct RobustHeld<'a, T> {
    lock: &'a RobustLock<T>,
    /// It is unlocked by the thread that locked it.
    _not_send: PhantomData<*const ()>,
}

impl<T> Drop for RobustHeld<'_, T> {
    fn drop(&mut self) {
        self.lock.unlock();
    }
}

impl<T> Drop for RobustLock<T> {
    fn drop(&mut self) {
        // SAFETY: nobody else has the lock any more.
        unsafe { libc::pthread_mutex_destroy(self.mutex.get()) };
    }
}
