//! Files that a process holds open, for others on its machine.

use std::fs::File;

/// Returns the path by which other processes of this machine open a file that this one holds open.
#[cfg(target_os = "linux")]
pub fn path_of(file: &File) -> Option<String> {
    use std::os::fd::AsRawFd;

    Some(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
}

#[cfg(not(target_os = "linux"))]
pub fn path_of(_: &File) -> Option<String> {
    None
}
