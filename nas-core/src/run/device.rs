//! Where tensors live: the CPU, or a CUDA device whose library is loaded only when it is asked for.
//!
//! The linker drops `libtorch_cuda.so`, which nothing refers to by name; a CPU run then starts in 0.2 s. It is loaded here,
//! *before* the first question about CUDA: libtorch remembers a "no" for the life of the process.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;
use tch::{Cuda, Device};

use crate::nn::choose_bfloat16;
use crate::nn::torch;

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
            Self::Auto => match usable_cards() {
                Ok(_) => Ok(Device::Cuda(0)),
                Err(reason) => {
                    if has_card() {
                        crate::run::words::tell(format_args!(
                            "note: this machine has an NVIDIA card that is not used: {reason:#}"
                        ));
                    }
                    Ok(Device::Cpu)
                }
            },
            Self::Cuda(index) => {
                let count = usable_cards().with_context(|| format!("--device {self}"))?;
                ensure!((index as i64) < count, "--device {self}: there are {count} CUDA devices, counted from 0");
                Ok(Device::Cuda(index))
            }
        }
    }
}

/// Opens a library for the whole process; the error is the loader's.
fn load(library: &str) -> Result<*mut c_void> {
    let name = CString::new(library)?;
    // SAFETY: a NUL-terminated name; libraries that are loaded here stay for the life of the process.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() {
        // SAFETY: after a failed dlopen, dlerror gives a valid string.
        let reason = unsafe { CStr::from_ptr(libc::dlerror()) };
        bail!("cannot load {library}: {}", reason.to_string_lossy());
    }
    Ok(handle)
}

/// Number of CUDA devices, at least one, or why there is none. Loads CUDA's library of libtorch.
fn usable_cards() -> Result<i64> {
    let driver = Driver::load()?;
    load_cuda()?;
    let count = if Cuda::is_available() { Cuda::device_count() } else { 0 };
    if count == 0 {
        let (driver, wanted) = (driver.version(), tch::utils::version_cudart());
        let [driver, wanted] = [driver.unwrap_or(0), wanted].map(|version| (version / 1000, version % 1000 / 10));
        ensure!(
            driver >= wanted || driver.0 == 0,
            "the NVIDIA driver is too old: it serves CUDA {}.{}, and this libtorch is built for CUDA {}.{}; update the driver",
            driver.0,
            driver.1,
            wanted.0,
            wanted.1
        );
        bail!("libtorch finds no usable CUDA device; see nvidia-smi and CUDA_VISIBLE_DEVICES");
    }
    Ok(count)
}

/// Whether there is a card in the machine, with a driver or without.
fn has_card() -> bool {
    const NVIDIA: &str = "0x10de";
    let devices = fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let is = |path: PathBuf, start: &str| fs::read_to_string(path).is_ok_and(|text| text.trim().starts_with(start));
    // Class 0x03: a display controller.
    devices.map(|entry| entry.path()).any(|path| is(path.join("vendor"), NVIDIA) && is(path.join("class"), "0x03"))
}

/// The address of a function of an open library, or with [`libc::RTLD_DEFAULT`] of any; `F` is its type.
fn function<F: Copy>(library: *mut c_void, name: &CStr) -> Option<F> {
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>(), "a pointer to a function");
    // SAFETY: a handle that stays open, and a NUL-terminated name.
    let address = unsafe { libc::dlsym(library, name.as_ptr()) };
    // SAFETY: the caller names the type that the library documents for the function.
    (!address.is_null()).then(|| unsafe { std::mem::transmute_copy(&address) })
}

/// What a card was asked to do, as the simulated one (`tests/fake_cuda`) counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CardWork {
    /// Kernels that were launched.
    pub launches: i64,
    /// Times that the host waited for the card.
    pub syncs: i64,
    /// Copies from the host.
    pub to_device: i64,
    /// Copies to the host.
    pub to_host: i64,
}

impl CardWork {
    /// Until now; none on a real card or without one.
    pub fn so_far() -> Option<Self> {
        let count: extern "C" fn(*mut [i64; 4]) = function(libc::RTLD_DEFAULT, c"fake_cuda_work")?;
        let mut counts = [0; 4];
        count(&mut counts);
        let [launches, syncs, to_device, to_host] = counts;
        Some(Self { launches, syncs, to_device, to_host })
    }

    /// Of one of `steps` since `before`.
    pub fn per_step(self, before: Self, steps: usize) -> Self {
        let each = |now: i64, before: i64| (now - before) / steps as i64;
        Self {
            launches: each(self.launches, before.launches),
            syncs: each(self.syncs, before.syncs),
            to_device: each(self.to_device, before.to_device),
            to_host: each(self.to_host, before.to_host),
        }
    }
}

/// The driver's own interface, which needs no libtorch.
struct Driver(*mut c_void);

impl Driver {
    fn load() -> Result<Self> {
        let driver = load("libcuda.so.1").map(Self);
        driver.map_err(|_| anyhow!("this machine has no NVIDIA driver (libcuda.so.1 is not found)"))
    }

    fn function<F: Copy>(&self, name: &CStr) -> Option<F> {
        function(self.0, name)
    }

    /// The newest CUDA that the driver serves, 12020 for 12.2.
    fn version(&self) -> Option<i64> {
        let get: extern "C" fn(*mut c_int) -> c_int = self.function(c"cuDriverGetVersion")?;
        let mut version = 0;
        (get(&mut version) == 0).then_some(version.into())
    }

    /// Name and memory in bytes of a device, counted as CUDA_VISIBLE_DEVICES says.
    fn card(&self, index: usize) -> Option<(String, u64)> {
        let init: extern "C" fn(u32) -> c_int = self.function(c"cuInit")?;
        let get: extern "C" fn(*mut c_int, c_int) -> c_int = self.function(c"cuDeviceGet")?;
        let name: extern "C" fn(*mut c_char, c_int, c_int) -> c_int = self.function(c"cuDeviceGetName")?;
        let total: extern "C" fn(*mut usize, c_int) -> c_int = self.function(c"cuDeviceTotalMem_v2")?;
        let (mut device, mut text, mut bytes) = (0, [0 as c_char; 256], 0);
        let done = init(0) == 0
            && get(&mut device, index as c_int) == 0
            && name(text.as_mut_ptr(), text.len() as c_int - 1, device) == 0
            && total(&mut bytes, device) == 0;
        // SAFETY: the last byte is 0 whatever the driver wrote.
        done.then(|| (unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned(), bytes as u64))
    }
}

fn load_cuda() -> Result<()> {
    let folder = libtorch_folder()?;
    let library = folder.join("libtorch_cuda.so");
    ensure!(library.exists(), "{} is missing: this libtorch has no CUDA; see `cargo xtask setup`", library.display());
    load(&library.to_string_lossy()).map(drop)
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
    match device {
        Device::Cuda(index) => match Driver::load().ok().and_then(|driver| driver.card(index)) {
            Some((name, bytes)) => format!("cuda:{index} ({name}, {} MiB)", bytes >> 20),
            None => format!("cuda:{index} (unknown model)"),
        },
        _ => {
            let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with("model name"));
            let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
            format!("cpu ({})", name.unwrap_or(std::env::consts::ARCH))
        }
    }
}

/// The most memory this process has held so far: of a CUDA device what libtorch's allocator gave to tensors, of the CPU
/// resident memory.
pub fn peak_memory_bytes(device: Device) -> Option<u64> {
    if let Device::Cuda(index) = device {
        return torch::device_memory(index).ok().map(|(_, peak)| peak);
    }
    kibibytes(Path::new("/proc/self/status"), "VmHWM:")
}

/// The resident memory of this process.
pub fn resident_memory_bytes() -> Option<u64> {
    kibibytes(Path::new("/proc/self/status"), "VmRSS:")
}

/// The memory of the machine that processes can still get, or what this process' control group has left of its limit where that is
/// less. None where the system does not say.
pub fn available_memory_bytes() -> Option<u64> {
    let machine = kibibytes(Path::new("/proc/meminfo"), "MemAvailable:")?;
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let groups = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ];
    let left = groups.into_iter().filter_map(|(limit, used)| Some(number(limit)?.saturating_sub(number(used)?)));
    left.chain([machine]).min()
}

/// A number of a file of the kernel, of the line that begins with `name`.
fn kibibytes(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// How a card computes. Settings of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numerics {
    /// Products of single-precision matrices round their operands to TF32; without it, convolutions alone do (libtorch's
    /// default).
    pub tf32: bool,
    /// Mixed precision is in bfloat16.
    pub bf16: bool,
    /// Equal runs give equal bits, where libtorch has a deterministic form; the others warn.
    pub deterministic: bool,
}

static CHOSEN: OnceLock<Numerics> = OnceLock::new();

impl Numerics {
    /// What the process was set up with.
    pub fn chosen() -> Self {
        CHOSEN.get().copied().unwrap_or_default()
    }

    /// The options that ask for the same.
    pub fn flags(self) -> Vec<&'static str> {
        let Self { tf32, bf16, deterministic } = self;
        let flags = [(tf32, "--tf32"), (bf16, "--bf16"), (deterministic, "--deterministic")];
        flags.into_iter().filter_map(|(given, flag)| given.then_some(flag)).collect()
    }

    /// Sets the process up, before its first computation.
    pub fn apply(self) {
        // Set once: a process has one command.
        let _ = CHOSEN.set(self);
        choose_bfloat16(self.bf16);
        if self.tf32 {
            torch::set_tf32(true);
        }
        if self.deterministic {
            // SAFETY: no other thread of this process reads or writes its environment yet. cuBLAS reads it when it starts.
            unsafe { std::env::set_var("CUBLAS_WORKSPACE_CONFIG", ":4096:8") };
            torch::set_deterministic();
        }
    }
}

/// Lets cuDNN time its algorithms once for each shape of a convolution: of use where steps repeat their shapes, as with fixed
/// crops.
pub fn expect_fixed_shapes(device: Device) {
    if device.is_cuda() && !torch::is_deterministic() {
        Cuda::cudnn_set_benchmark(true);
    }
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
        let (peak, now) = (peak_memory_bytes(Device::Cpu).unwrap(), resident_memory_bytes().unwrap());
        assert!(now > 1 << 20 && peak >= now && available_memory_bytes().unwrap() > 1 << 20);
    }

    #[test]
    fn a_cuda_device_that_is_not_there_is_an_error_that_says_so() {
        if Driver::load().is_err() {
            let error = format!("{:#}", DeviceChoice::Cuda(0).resolve().unwrap_err());
            assert!(error.starts_with("--device cuda:0: ") && error.contains("no NVIDIA driver"), "{error}");
        }
    }
}
