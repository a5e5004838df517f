//! `streamtrace doctor`: lists what is installed for notebooks and GPUs, and how to get what is missing.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use streamtrace::{
    Error,
    engine::cuda::{Cuda, libraries},
    protocol::process,
};

use crate::output::Format;

#[derive(Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    format: Format,
}

/// A program or library that was looked for.
#[derive(Serialize)]
struct Check {
    name: &'static str,
    /// Whether notebooks need it; a GPU is only faster.
    needed: bool,
    /// The version or the place, if it was found.
    found: Option<String>,
    /// How to get it.
    fix: String,
}

impl DoctorArgs {
    /// Fails when something is missing that notebooks need.
    pub fn run(&self) -> Result<(), Error> {
        let checks = checks();
        let missing: Vec<&str> =
            checks.iter().filter(|check| check.needed && check.found.is_none()).map(|c| c.name).collect();
        let lines: Vec<String> = checks.iter().map(Check::line).collect();
        self.format.print(json!({ "ready": missing.is_empty(), "checks": checks }), lines.join("\n"))?;
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::setting(
            "this machine",
            "all that notebooks need",
            format!("no {}", missing.join(", no ")),
            "do what the list says, or run ./lab in the source folder, which installs all of it",
        ))
    }
}

impl Check {
    fn line(&self) -> String {
        match (&self.found, self.needed) {
            (Some(found), _) => format!("ok       {}: {found}", self.name),
            (None, true) => format!("missing  {}: {}", self.name, self.fix),
            (None, false) => format!("without  {}: {}", self.name, self.fix),
        }
    }
}

fn checks() -> Vec<Check> {
    [for_cells(), for_jupyter(), for_gpus()].into_iter().flatten().collect()
}

/// What compiles and runs a cell.
fn for_cells() -> Vec<Check> {
    let sources = said("rustc", &["--print", "sysroot"])
        .map(|root| Path::new(&root).join("lib/rustlib/src/rust/library"));
    let engine = process::Command::find();
    let no_engine = engine.as_ref().err().map_or_else(String::new, ToString::to_string);
    vec![
        needed("Rust", said("cargo", &["--version"]), "install it from https://rustup.rs"),
        needed("C linker", program("cc"), "install gcc from your system's packages"),
        needed(
            "rust-src",
            sources.filter(|folder| folder.is_dir()).map(shown),
            "rustup component add rust-src",
        ),
        needed("engine", engine.ok().map(|command| command.program.display().to_string()), &no_engine),
    ]
}

fn for_jupyter() -> Vec<Check> {
    let kernel = program("evcxr_jupyter").or_else(|| cargo_binary("evcxr_jupyter"));
    vec![
        needed("Rust kernel", kernel, "cargo install --locked evcxr_jupyter"),
        needed("Jupyter", jupyter(), "run ./lab, or pip install jupyterlab in the active environment"),
        needed("Jupyter's entry of the Rust kernel", kernel_entry(), "run ./lab, or evcxr_jupyter --install"),
    ]
}

fn for_gpus() -> Vec<Check> {
    let [driver, nvrtc, cublas] = libraries::found();
    if !driver {
        let fix = "none found; models run on the CPU (for an NVIDIA GPU: install its driver, then pip install \
                   nvidia-cuda-nvrtc nvidia-cublas)";
        return vec![optional("GPU", None, fix)];
    }
    let card = match Cuda::open(0) {
        Ok(card) => optional("GPU", Some(streamtrace::engine::device::Device::name(&card)), ""),
        Err(error) => optional("GPU", None, &format!("models run on the CPU: {error}")),
    };
    let wheel = |name: &str| {
        format!("for an NVIDIA GPU: pip install {name} in the active environment, or set CUDA_HOME")
    };
    let there = |found: bool| found.then(|| "found".to_string());
    vec![
        optional("NVIDIA driver", there(driver), ""),
        optional("NVRTC", there(nvrtc), &wheel("nvidia-cuda-nvrtc")),
        optional("cuBLAS", there(cublas), &wheel("nvidia-cublas")),
        card,
    ]
}

fn needed(name: &'static str, found: Option<String>, fix: &str) -> Check {
    Check { name, needed: true, found, fix: fix.into() }
}

fn optional(name: &'static str, found: Option<String>, fix: &str) -> Check {
    Check { name, needed: false, found, fix: fix.into() }
}

/// The first line that a program prints, if it is there and succeeds.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(|line| line.trim().to_string())
}

/// Where a program lies on the `PATH`, or by itself if it names a folder.
fn program(name: &str) -> Option<String> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file()).map(shown)
}

/// Where a program lies among those that cargo installed.
fn cargo_binary(name: &str) -> Option<String> {
    let cargo =
        env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))?;
    Some(cargo.join("bin").join(name)).filter(|file| file.is_file()).map(shown)
}

/// Jupyter on the `PATH`, or where `./lab` puts it when this runs in the source folder.
fn jupyter() -> Option<String> {
    let local = env::current_dir().ok()?.join(".venv/bin/jupyter");
    program("jupyter").or_else(|| Some(local).filter(|file| file.is_file()).map(shown))
}

/// Jupyter's entry of a Rust kernel whose program exists: a folder that was moved leaves a dead entry behind.
fn kernel_entry() -> Option<String> {
    let output = Command::new(jupyter()?).args(["kernelspec", "list", "--json"]).output().ok()?;
    let kernels: Value = serde_json::from_slice(&output.stdout).ok()?;
    let is_rust = |kernel: &&Value| {
        kernel["spec"]["language"].as_str().is_some_and(|name| name.eq_ignore_ascii_case("rust"))
    };
    let starts =
        |kernel: &&Value| kernel["spec"]["argv"][0].as_str().is_some_and(|name| program(name).is_some());
    let kernel = kernels["kernelspecs"].as_object()?.values().filter(is_rust).find(starts)?;
    kernel["resource_dir"].as_str().map(Into::into)
}

fn shown(path: PathBuf) -> String {
    path.display().to_string()
}
