//! Where tensors live: the CPU, or a CUDA device whose library is loaded only when it is asked for.
//!
//! The linker drops `libtorch_cuda.so`, which nothing refers to by name; a CPU run then starts in 0.2 s. It is loaded here,
//! *before* the first question about CUDA: libtorch remembers a "no" for the life of the process.

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use tch::{Cuda, Device};

/// A device as the user names it: `auto`, `cpu`, `cuda` or `cuda:1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device where there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by index.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("{text:?} is no device; expected auto, cpu, cuda or cuda:INDEX")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl DeviceChoice {
    /// The device, with CUDA's library loaded where it is one of CUDA. `auto` falls back to the CPU when there is no driver
    /// or no CUDA build of libtorch; a CUDA device that was asked for by name and is not there is an error.
    pub fn resolve(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto if has_driver() && load_cuda().is_ok() && Cuda::is_available() => Ok(Device::Cuda(0)),
            Self::Auto => Ok(Device::Cpu),
            Self::Cuda(index) => {
                ensure!(has_driver(), "--device {self}: this machine has no NVIDIA driver (libcuda.so.1 is not found)");
                load_cuda().with_context(|| format!("--device {self}"))?;
                let count = Cuda::device_count();
                ensure!(Cuda::is_available() && count > 0, "--device {self}: libtorch finds no usable CUDA device");
                ensure!((index as i64) < count, "--device {self}: there are {count} CUDA devices, counted from 0");
                Ok(Device::Cuda(index))
            }
        }
    }
}

/// Opens a library for the whole process; the error is the loader's.
fn load(library: &str) -> Result<()> {
    let name = CString::new(library)?;
    // SAFETY: a NUL-terminated name; libraries that are loaded here stay for the life of the process.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() {
        // SAFETY: after a failed dlopen, dlerror gives a valid string.
        let reason = unsafe { CStr::from_ptr(libc::dlerror()) };
        bail!("cannot load {library}: {}", reason.to_string_lossy());
    }
    Ok(())
}

fn has_driver() -> bool {
    load("libcuda.so.1").is_ok()
}

fn load_cuda() -> Result<()> {
    let folder = libtorch_folder()?;
    let library = folder.join("libtorch_cuda.so");
    ensure!(library.exists(), "{} is missing: this libtorch has no CUDA; see `cargo xtask setup`", library.display());
    load(&library.to_string_lossy())
}

/// Folder of the libtorch that this process runs on.
fn libtorch_folder() -> Result<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").context("cannot find the folder of libtorch")?;
    let path =
        maps.lines().filter_map(|line| line.split_whitespace().last()).find(|path| path.ends_with("libtorch_cpu.so"));
    let path = path.context("libtorch_cpu.so is not loaded")?;
    Ok(PathBuf::from(path).parent().context("libtorch_cpu.so has a folder")?.to_path_buf())
}

/// The device in words, for logs and `meta.json`.
pub fn describe(device: Device) -> String {
    let model = |path: &str, key: &str| {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    match device {
        Device::Cuda(index) => {
            let mut cards: Vec<PathBuf> = fs::read_dir("/proc/driver/nvidia/gpus")
                .map(|cards| cards.flatten().map(|card| card.path().join("information")).collect())
                .unwrap_or_default();
            cards.sort();
            let name = cards.get(index).and_then(|card| model(&card.to_string_lossy(), "Model"));
            format!("cuda:{index} ({})", name.unwrap_or_else(|| "unknown model".into()))
        }
        _ => format!("cpu ({})", model("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into())),
    }
}

/// The most memory this process has held so far: resident memory on the CPU. libtorch's C interface does not tell for CUDA.
pub fn peak_memory_bytes(device: Device) -> Option<u64> {
    if device.is_cuda() {
        return None;
    }
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for (text, device) in
            [("auto", DeviceChoice::Auto), ("cpu", DeviceChoice::Cpu), ("cuda:3", DeviceChoice::Cuda(3))]
        {
            assert_eq!(text.parse(), Ok(device));
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert!("gpu".parse::<DeviceChoice>().unwrap_err().contains("expected auto, cpu, cuda"));
    }

    #[test]
    fn the_cpu_is_always_there_and_its_memory_is_known() {
        assert_eq!(DeviceChoice::Cpu.resolve().unwrap(), Device::Cpu);
        assert!(describe(Device::Cpu).starts_with("cpu ("));
        assert!(peak_memory_bytes(Device::Cpu).unwrap() > 1 << 20);
    }

    #[test]
    fn a_cuda_device_that_is_not_there_is_an_error_that_says_so() {
        if !has_driver() {
            assert!(DeviceChoice::Cuda(0).resolve().unwrap_err().to_string().contains("no NVIDIA driver"));
        }
    }
}
