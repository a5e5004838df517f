//! A card: its memory, its one stream, its kernels. Every launch goes through [`Gpu::launch`].

use std::{
    collections::HashMap,
    ffi::c_void,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use cudarc::driver::{
    CudaContext, CudaGraph, CudaStream, DevicePtr, DeviceRepr, DriverError, LaunchConfig, PushKernelArg,
    sys::{self, CUfunction_attribute_enum, CUresult},
};

use super::{
    array::{Array, Pieces},
    kernel_params::KernelParams,
    libraries,
    module::{Kernel, Loaded, Work},
    pointer::{DevicePointer, TensorMap},
    staging::{OnCard, Staging, THREADS, Way},
    word::Word,
};
use crate::error::Error;

pub struct Gpu {
    /// The stream that runs everything, in order.
    pub stream: Arc<CudaStream>,
    /// The stream that brings weights meanwhile.
    pub copies: Arc<CudaStream>,
    /// The stream that brings records back meanwhile.
    pub(super) records: Arc<CudaStream>,
    /// The stream that brings back what the host waits for, while there is other work.
    pub(super) answers: Arc<CudaStream>,
    /// The stream that brings chunks of hidden states back and forth meanwhile.
    pub(super) residuals: Arc<CudaStream>,
    pub name: String,
    /// "sm_90a"
    pub architecture: String,
    loaded: Mutex<HashMap<Kernel, Loaded>>,
    /// Of each thread that brings weights.
    pub(super) to_card: [Mutex<Staging>; THREADS],
    /// What the first weight in blocks takes, for all that come.
    pub(super) on_card: Mutex<Option<Arc<OnCard>>>,
    pub(super) from_card: Mutex<Staging>,
    pub(super) of_records: Mutex<Staging>,
    /// Of all runs so far: to pin memory takes the host a millisecond.
    pub(super) words: Mutex<Vec<Arc<Word>>>,
    /// What arrays take while work is captured.
    keeping: Mutex<Option<Arc<Pieces>>>,
}

impl Gpu {
    /// Opens a card; counting starts again after the last.
    ///
    /// # Errors
    /// [`Error::Device`] when no card works, or it is too old.
    pub fn open(card: usize) -> Result<Self, Error> {
        // The driver takes as long to start as the libraries to load.
        let context = thread::scope(|scope| {
            scope.spawn(libraries::found);
            libraries::has_driver().then(|| context_of(card))
        });
        libraries::load()?;
        let context = context.unwrap_or_else(|| context_of(card))?;
        let name = context.name().map_err(|e| failed("cuda", "the card does not answer", e))?;
        let capability =
            context.compute_capability().map_err(|e| failed(&name, "the card does not answer", e))?;
        let architecture = match capability {
            (9, 0) => "sm_90a".to_string(),
            (major, minor) => format!("sm_{major}{minor}"),
        };
        if capability < (8, 0) {
            let what = format!(
                "its architecture {architecture} has no bf16 products; sm_80 (A100, RTX 30) or later is needed"
            );
            return Err(Error::device(name, what, "choose the CPU"));
        }
        // SAFETY: what the second stream writes is not used by the first before `wait_for`, nor given back
        // meanwhile.
        unsafe { context.disable_event_tracking() };
        let stream = || context.new_stream().map_err(|e| failed(&name, "a stream cannot be made", e));
        let [copies, records, answers, residuals] = [stream()?, stream()?, stream()?, stream()?];
        let stream = stream()?;
        let to_card = std::array::from_fn(|thread| Mutex::new(Staging::new(Way::ToCard, thread)));
        let [from_card, of_records] = [0, 1].map(|i| Mutex::new(Staging::new(Way::FromCard, i)));
        let loaded = Mutex::default();
        let gpu = Gpu {
            stream,
            copies,
            records,
            answers,
            residuals,
            name,
            architecture,
            loaded,
            to_card,
            on_card: Mutex::default(),
            from_card,
            of_records,
            words: Mutex::default(),
            keeping: Mutex::default(),
        };
        gpu.keep_freed_memory()?;
        Ok(gpu)
    }

    /// Keeps freed memory with this process: taking it again costs nothing.
    fn keep_freed_memory(&self) -> Result<(), Error> {
        let pool = self.pool()?;
        let mut threshold = u64::MAX;
        // SAFETY: the attribute is a 64-bit number.
        let status = unsafe {
            let attribute = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast())
        };
        status.result().map_err(|e| self.failed("its memory pool cannot be set up", e))
    }

    fn pool(&self) -> Result<sys::CUmemoryPool, Error> {
        let mut pool = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let status = unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, self.stream.context().cu_device()) };
        status.result().map_err(|e| self.failed("it has no memory pool", e))?;
        Ok(pool)
    }

    /// Returns a number that the memory pool keeps; 0 where it does not.
    fn of_pool(&self, attribute: sys::CUmemPool_attribute_enum) -> u64 {
        let mut bytes = 0u64;
        let Ok(pool) = self.pool() else { return 0 };
        // SAFETY: the attribute is a 64-bit number.
        let status = unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast()) };
        status.result().map_or(0, |()| bytes)
    }

    /// Returns the most bytes that were in use at once since [`Gpu::reset_peak`].
    pub fn peak(&self) -> u64 {
        self.of_pool(sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_USED_MEM_HIGH)
    }

    /// Starts a new measurement of the peak.
    fn reset_peak(&self) {
        let (Ok(pool), mut zero) = (self.pool(), 0u64) else { return };
        // SAFETY: the attribute is a 64-bit number; 0 is the only value that may be set.
        unsafe {
            sys::cuMemPoolSetAttribute(
                pool,
                sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_USED_MEM_HIGH,
                (&raw mut zero).cast(),
            )
        };
    }

    /// Reserves `bytes` for later arrays, less what this process already holds.
    pub fn reserve(&self, bytes: u64) -> Result<(), Error> {
        let kept = self.of_pool(sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
        let used = self.of_pool(sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
        if kept.saturating_sub(used) < bytes {
            // SAFETY: gives back what no array holds.
            let status = unsafe { sys::cuMemPoolTrimTo(self.pool()?, 0) };
            status.result().map_err(|e| self.failed("its memory pool cannot be cleared", e))?;
            drop(self.alloc::<u8>(bytes as usize)?);
        }
        self.reset_peak();
        Ok(())
    }

    /// Returns the bytes available: free ones, and those that this process keeps without using them.
    pub fn available(&self) -> Result<u64, Error> {
        let free = self
            .stream
            .context()
            .mem_get_info()
            .map_err(|e| self.failed("its memory cannot be measured", e))?
            .0;
        let kept = self.of_pool(sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
        let used = self.of_pool(sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
        Ok(free as u64 + kept.saturating_sub(used))
    }

    /// Waits for everything that was started on a stream.
    pub fn wait_for(&self, stream: &CudaStream) -> Result<(), Error> {
        stream.synchronize().map_err(|e| self.failed("the card stopped", e))
    }

    /// Makes the card the current one of the calling thread.
    pub fn make_current(&self) -> Result<(), Error> {
        self.stream.context().bind_to_thread().map_err(|e| self.failed("it cannot be used by this thread", e))
    }

    pub fn is_hopper(&self) -> bool {
        self.architecture == "sm_90a"
    }

    /// Takes memory whose content is not set.
    pub fn alloc<T: DeviceRepr>(&self, len: usize) -> Result<Array<T>, Error> {
        let kept = self.keeping.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let array = match kept {
            // SAFETY: as below; and work that is captured is all that uses it. The stream's calls are not captured.
            Some(pieces) => unsafe { pieces.array(&self.copies, len.max(1)) },
            // SAFETY: every kernel that gets such memory first writes what it or others read.
            None => unsafe { Array::new(&self.stream, len.max(1)) },
        };
        array.map_err(|e| self.failed(&format!("{} bytes could not be had", len * size_of::<T>()), e))
    }

    /// Takes memory full of zeros.
    pub fn zeros<T: DeviceRepr + cudarc::driver::ValidAsZeroBits>(
        &self,
        len: usize,
    ) -> Result<Array<T>, Error> {
        let mut array = self.alloc(len)?;
        let set = self.stream.memset_zeros(&mut *array);
        set.map_err(|e| self.failed("its memory cannot be set", e)).map(|()| array)
    }

    /// Captures the launches of `work` for replay; it must not wait. The memory that it takes is in the pieces, which must
    /// be there as long as the graph.
    pub fn captured<T>(
        &self,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<(CudaGraph, Arc<Pieces>, T), Error> {
        let failed = |e| self.failed("work could not be captured in a graph", e);
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let pieces = Arc::new(Pieces::default());
        let keep = |pieces| *self.keeping.lock().unwrap_or_else(PoisonError::into_inner) = pieces;
        self.stream.begin_capture(mode).map_err(failed)?;
        keep(Some(pieces.clone()));
        let done = work();
        keep(None);
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(failed);
        let (done, graph) = (done?, graph?);
        let graph =
            graph.ok_or_else(|| failed(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)))?;
        // The pieces are there.
        self.wait_for(&self.copies)?;
        Ok((graph, pieces, done))
    }

    pub fn pointer<T>(&self, x: &Array<T>) -> DevicePointer<T> {
        self.pointer_at(x, 0)
    }

    /// Returns the address of number `at`.
    pub fn pointer_at<T>(&self, x: &Array<T>, at: usize) -> DevicePointer<T> {
        debug_assert!(at <= x.len());
        DevicePointer::new(x.device_ptr(&self.stream).0 + (at * size_of::<T>()) as u64)
    }

    /// Returns a map of `x` `[n_rows, n_heads, head_dim]` bf16, whose boxes hold `rows` rows of 64 values of
    /// a head, for Hopper's copy engine.
    pub fn map(
        &self,
        x: &Array<u16>,
        n_rows: usize,
        n_heads: usize,
        head_dim: usize,
        rows: usize,
    ) -> Result<TensorMap, Error> {
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let sizes = [head_dim as u64, n_heads as u64, n_rows as u64];
        let strides = [head_dim as u64 * 2, (n_heads * head_dim) as u64 * 2];
        // SAFETY: the arrays have the three dimensions' lengths; the driver checks the rest.
        let status = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                sys::CUtensorMapDataType_enum::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                3,
                x.device_ptr(&self.stream).0 as *mut c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                [64, 1, rows as u32].as_ptr(),
                [1, 1, 1].as_ptr(),
                sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        status.result().map_err(|e| self.failed("a tensor map was refused", e))?;
        Ok(TensorMap { opaque: map.opaque })
    }

    /// Starts a kernel; returns before the kernel ends.
    ///
    /// # Safety
    /// The addresses in `params` must be of memory of the sizes that the kernel's header comment says.
    pub unsafe fn launch<P: KernelParams>(
        &self,
        kernel: &Kernel,
        work: Work,
        params: &P,
    ) -> Result<(), Error> {
        // SAFETY: the caller vouches for the addresses.
        unsafe { self.launch_on(&self.stream, kernel, work, params) }
    }

    /// Starts a kernel on another stream than the one that runs everything.
    ///
    /// # Safety
    /// As [`Gpu::launch`].
    pub unsafe fn launch_on<P: KernelParams>(
        &self,
        stream: &Arc<CudaStream>,
        kernel: &Kernel,
        work: Work,
        params: &P,
    ) -> Result<(), Error> {
        if work.items == 0 || work.heads == 0 {
            return Ok(());
        }
        if !P::ENTRIES.contains(&kernel.entry) {
            let what = format!("kernel {} does not take {}", kernel.entry, std::any::type_name::<P>());
            return Err(Error::device(&self.name, what, "please report this"));
        }
        self.make_current()?;
        let loaded = self.loaded(kernel)?;
        let config = loaded.geometry.launch(work);
        self.allow_shared(kernel, &loaded, config)?;
        // SAFETY: the kernel takes these parameters, which the driver copies; the caller vouches for what
        // they lead to.
        let launched = unsafe { stream.launch_builder(&loaded.function).arg(params).launch(config) };
        launched.map(drop).map_err(|e| self.failed(&format!("kernel {} did not start", kernel.entry), e))
    }

    /// Returns a kernel's function and geometry, compiled and loaded on the first call.
    pub fn loaded(&self, kernel: &Kernel) -> Result<Loaded, Error> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = loaded.get(kernel) {
            return Ok(loaded.clone());
        }
        let code = kernel.compile(&self.architecture)?;
        let module = Loaded::new(&self.stream, kernel, code);
        let module =
            module.map_err(|e| self.failed(&format!("kernel {} cannot be loaded", kernel.entry), e))?;
        loaded.insert(kernel.clone(), module.clone());
        Ok(module)
    }

    /// Asks for the shared memory beyond what every kernel may take.
    fn allow_shared(&self, kernel: &Kernel, loaded: &Loaded, config: LaunchConfig) -> Result<(), Error> {
        let bytes = config.shared_mem_bytes;
        // 48 kB are always allowed; some of them may be the kernel's own.
        if bytes <= 40 * 1024 {
            return Ok(());
        }
        let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        loaded.function.set_attribute(attribute, bytes as i32).map_err(|_| {
            Error::device(
                &self.name,
                format!(
                    "kernel {} needs {bytes} bytes of shared memory, more than this card has",
                    kernel.entry
                ),
                "choose a smaller block_size_q, top_k or beam, or the CPU",
            )
        })
    }

    pub fn failed(&self, what: &str, e: DriverError) -> Error {
        failed(&self.name, what, e)
    }
}

fn context_of(card: usize) -> Result<Arc<CudaContext>, Error> {
    let n_cards = CudaContext::device_count().map_or(1, |n| n.max(1) as usize);
    CudaContext::new(card % n_cards).map_err(|e| failed("cuda", "no card could be opened", e))
}

fn failed(device: &str, what: &str, e: DriverError) -> Error {
    let fix = match e.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            "free its memory (nvidia-smi shows who holds it), set a smaller limit or prompt, or choose the CPU"
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "update the NVIDIA driver, or choose the CPU"
        }
        CUresult::CUDA_ERROR_NO_DEVICE | CUresult::CUDA_ERROR_INVALID_DEVICE => "choose the CPU",
        _ => "try again, or choose the CPU",
    };
    let reason =
        e.error_string().map_or_else(|_| format!("{e:?}"), |text| text.to_string_lossy().into_owned());
    Error::device(device, format!("{what}: {reason}"), fix)
}
