//! Opens a page in the browser of this machine.

use std::{path::Path, process::Command};

use streamtrace::Error;

/// Opens a file with the program that the system has for it.
pub fn open(file: &Path) -> Result<(), Error> {
    let opener = match std::env::consts::OS {
        "macos" => "open",
        "windows" => "explorer",
        _ => "xdg-open",
    };
    match Command::new(opener).arg(file).status() {
        Ok(status) if status.success() || opener == "explorer" => Ok(()),
        _ => Err(Error::setting(
            "--open",
            format!("a browser that {opener} can start"),
            "none",
            format!("open {} yourself", file.display()),
        )),
    }
}
