//! tmp
use std::str::FromStr;
/// tmp
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// tmp
    Auto,
}
impl FromStr for DeviceChoice {
    type Err = String;
    fn from_str(_: &str) -> Result<Self, String> {
        Ok(Self::Auto)
    }
}
impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("auto")
    }
}
impl DeviceChoice {
    /// tmp
    pub fn resolve(self) -> anyhow::Result<tch::Device> {
        Ok(tch::Device::Cpu)
    }
}
/// tmp
pub fn describe(_: tch::Device) -> String {
    "cpu".into()
}
/// tmp
pub fn peak_memory_bytes(_: tch::Device) -> Option<u64> {
    None
}
