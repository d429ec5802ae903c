//! A group: the guest that its tests need, and the tests. Both sides have the same list (it is one executable): the host starts the guest and names the
//! test, the test process looks its function up.
#![forbid(unsafe_code)]

use crate::hardware::{Controller, Place};
use crate::inside::Inside;
use std::time::Duration;

/// What a test may take, unless it says otherwise.
const DEADLINE: Duration = Duration::from_secs(60);

/// A guest and the tests that run in it, in this order, one at a time.
#[derive(Debug)]
pub struct Group {
    pub name: &'static str,
    pub controllers: Vec<Controller>,
    pub tests: Vec<Test>,
    /// PCIe's own hot plug instead of ACPI's: what surprise removal needs; an orderly unplug then takes 5 s.
    pub native_hotplug: bool,
}

impl Group {
    pub fn new(name: &'static str) -> Self {
        Self { name, controllers: Vec::new(), tests: Vec::new(), native_hotplug: false }
    }

    /// The first is at 0000:01:00.0, the next at 0000:02:00.0, and so on; `Inside::address` knows.
    #[must_use]
    pub fn controller(mut self, controller: Controller) -> Self {
        self.controllers.push(controller);
        self
    }

    /// See [`Group::native_hotplug`].
    #[must_use]
    pub fn native_hotplug(mut self) -> Self {
        self.native_hotplug = true;
        self
    }

    #[must_use]
    pub fn test(mut self, test: Test) -> Self {
        self.tests.push(test);
        self
    }

    /// The controller of this name.
    ///
    /// # Panics
    /// If the group has none.
    pub fn find(&self, id: &str) -> &Controller {
        let found = self.controllers.iter().find(|controller| controller.id == id);
        found.unwrap_or_else(|| panic!("group {} has no controller {id}", self.name))
    }

    /// Where the controller of this name is plugged.
    ///
    /// # Panics
    /// If the group has none.
    pub fn place(&self, id: &str) -> Place {
        let first = self.find(id).beside.unwrap_or(id);
        let slots = || self.controllers.iter().filter(|controller| controller.beside.is_none());
        let in_slot = |controller: &&Controller| controller.id == first || controller.beside == Some(first);
        let fellows: Vec<_> = self.controllers.iter().filter(in_slot).collect();
        Place {
            port: slots().position(|controller| controller.id == first).expect("beside names a controller"),
            function: fellows.iter().position(|controller| controller.id == id).expect("it is in its slot"),
            shared: fellows.len() > 1,
        }
    }

    /// How many root ports there are.
    pub fn ports(&self) -> usize {
        self.controllers.iter().filter(|controller| controller.beside.is_none()).count()
    }
}

/// One test that runs inside the guest, in a process of its own. It fails by panicking.
#[derive(Debug)]
pub struct Test {
    pub name: &'static str,
    pub body: fn(&Inside),
    pub deadline: Duration,
    pub user: Option<User>,
    /// Parts of kernel messages that this test provokes, beyond those of `klog::ALLOWED`.
    pub allowed_log: &'static [&'static str],
    /// The test passes if it fails, with this in its report: a test of the harness itself.
    pub must_fail: Option<&'static str>,
}

/// Who a test runs as, instead of root.
#[derive(Debug)]
pub struct User {
    /// User and group.
    pub id: u32,
    /// The limit of locked memory, in bytes.
    pub memlock: u64,
    /// Runs before, as root, in the same process.
    pub prepare: fn(&Inside),
}

impl Test {
    /// Runs as root, for a minute at most.
    pub fn new(name: &'static str, body: fn(&Inside)) -> Self {
        Self { name, body, deadline: DEADLINE, user: None, allowed_log: &[], must_fail: None }
    }

    #[must_use]
    pub fn deadline(mut self, seconds: u64) -> Self {
        self.deadline = Duration::from_secs(seconds);
        self
    }

    /// Runs as an ordinary user, after root has prepared what it may use.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// The kernel may say this, and it is no failure.
    #[must_use]
    pub fn allow_log(mut self, parts: &'static [&'static str]) -> Self {
        self.allowed_log = parts;
        self
    }

    /// See [`Test::must_fail`].
    #[must_use]
    pub fn must_fail(mut self, report_says: &'static str) -> Self {
        self.must_fail = Some(report_says);
        self
    }
}
