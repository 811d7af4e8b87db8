//! c10d's TCPStore: where ranks meet, and where they leave their last words.

use std::{
    ffi::{CString, c_void},
    ptr,
    time::Duration,
};

use tch::Tensor;

use crate::error::TorchError;
use crate::ffi;

/// The part of a rank in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StorePart {
    /// Runs the server, and is its client too.
    Server,
    /// Connects to the server of another rank or program.
    Client,
}

/// A connection to the store.
#[derive(Debug)]
pub(super) struct Store(*mut c_void);

// SAFETY: the C++ object locks itself for each operation (`TCPStore::activeOpLock_`), and nothing in it belongs to
// a thread.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

pub(super) fn c_string(text: &str) -> CString {
    // Text with a NUL inside ends before it; none of ours has one.
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

pub(super) fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl Store {
    pub(super) fn open(
        host: &str,
        port: u16,
        part: StorePart,
        timeout: Duration,
        prefix: &str,
    ) -> Result<Self, TorchError> {
        let (host, prefix) = (c_string(host), c_string(prefix));
        let mut store = ptr::null_mut();
        // SAFETY: both strings and `store` outlive the call.
        let status = unsafe {
            ffi::rlaif_store_open(
                host.as_ptr(),
                port,
                i32::from(part == StorePart::Server),
                milliseconds(timeout),
                prefix.as_ptr(),
                &raw mut store,
            )
        };
        ffi::check("store", status)?;
        Ok(Self(store))
    }

    pub(super) fn raw(&self) -> *mut c_void {
        self.0
    }

    pub(super) fn set(&self, key: &str, value: &[u8]) -> Result<(), TorchError> {
        let key = c_string(key);
        // SAFETY: the store lives as long as `self`; key and value outlive the call.
        let status =
            unsafe { ffi::rlaif_store_set(self.0, key.as_ptr(), value.as_ptr(), value.len()) };
        ffi::check("store", status)
    }

    /// The value of a key, if there is one now.
    pub(super) fn get(&self, key: &str) -> Result<Option<Vec<u8>>, TorchError> {
        let key = c_string(key);
        let mut value = ptr::null_mut();
        // SAFETY: the store lives as long as `self`; key and `value` outlive the call.
        let status = unsafe { ffi::rlaif_store_get(self.0, key.as_ptr(), &raw mut value) };
        ffi::check("store", status)?;
        if value.is_null() {
            return Ok(None);
        }
        // SAFETY: the call succeeded and the pointer is not null, so it handed a tensor over.
        let value = unsafe { ffi::take(value) };
        Ok(Some(bytes_of(&value)))
    }

    pub(super) fn add(&self, key: &str, by: i64) -> Result<i64, TorchError> {
        let key = c_string(key);
        let mut sum = 0;
        // SAFETY: the store lives as long as `self`; key and `sum` outlive the call.
        let status = unsafe { ffi::rlaif_store_add(self.0, key.as_ptr(), by, &raw mut sum) };
        ffi::check("store", status)?;
        Ok(sum)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `rlaif_store_open`, and is freed once.
        unsafe { ffi::rlaif_store_free(self.0) }
    }
}

/// The bytes of a tensor of kind `Uint8` on the CPU.
pub(super) fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.numel()];
    let len = bytes.len();
    tensor.copy_data_u8(&mut bytes, len);
    bytes
}
