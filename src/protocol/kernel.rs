//! Ends the process of a notebook's cells, and the engine below it, when the kernel dies, so that neither
//! runs on without a user.

use std::{env, os::unix::process::parent_id, process, sync::Once, thread, time::Duration};

/// The time between two looks for the kernel.
const PERIOD: Duration = Duration::from_millis(500);

/// Ends this process, in a notebook, when the kernel that started it has died; the engine then ends with its
/// input.
///
/// A cell that waits for the engine reads nothing from the kernel, and would not notice: only its parent
/// changes.
pub(super) fn end_with_kernel() {
    static WATCH: Once = Once::new();
    if env::var_os("EVCXR_IS_RUNTIME").is_none() {
        return;
    }
    let kernel = parent_id();
    WATCH.call_once(|| {
        thread::spawn(move || {
            while parent_id() == kernel {
                thread::sleep(PERIOD);
            }
            process::exit(1)
        });
    });
}
