//! Quantised weights come to the card in the file's blocks, and become bf16 there.

use std::sync::{Arc, PoisonError};

use cudarc::driver::{CudaStream, DriverError};

use super::{
    gpu::Gpu,
    macros::Macro,
    module::{Kernel, Work},
    params::DequantizeParams,
    pointer::DevicePointer,
    staging::{OnCard, Staging, THREADS, TO_CARD},
};
use crate::{
    engine::model::{format::Format, weight::Blocks},
    error::Error,
};

/// Returns the name that a format has in kernels/dequantize.cu; `None` for one that is read on the host.
pub fn name_of(format: Format) -> Option<&'static str> {
    Some(match format {
        Format::Q4_0 => "Q4_0",
        Format::Q4_1 => "Q4_1",
        Format::Q5_0 => "Q5_0",
        Format::Q5_1 => "Q5_1",
        Format::Q8_0 => "Q8_0",
        Format::Q2_K => "Q2_K",
        Format::Q3_K => "Q3_K",
        Format::Q4_K => "Q4_K",
        Format::Q5_K => "Q5_K",
        Format::Q6_K => "Q6_K",
        Format::IQ4_NL => "IQ4_NL",
        Format::IQ4_XS => "IQ4_XS",
        Format::MXFP4 => "MXFP4",
        _ => return None,
    })
}

fn no_kernel(gpu: &Gpu, format: Format) -> Error {
    Error::device(&gpu.name, format!("no kernel dequantises {format}"), "choose the CPU")
}

impl Gpu {
    /// Brings rows of `width` numbers to the card, piece by piece, and dequantises each into its place from `to` on;
    /// returns before the last one has arrived.
    pub(super) fn dequantize(
        &self,
        stream: &Arc<CudaStream>,
        staging: &mut Staging,
        blocks: &Blocks,
        width: usize,
        to: DevicePointer<u16>,
    ) -> Result<(), Error> {
        let name = name_of(blocks.format).ok_or_else(|| no_kernel(self, blocks.format))?;
        let row_bytes = width / blocks.format.block_size() * blocks.format.block_bytes();
        // Rows change places only inside a head, so a piece holds whole heads.
        let together = row_bytes * blocks.interleaved.max(1);
        let piece = (TO_CARD / together).max(1) * together;
        let failed = |e| self.failed("a weight could not be copied to the card", e);
        let on_card = self.on_card().map_err(failed)?;
        for (i, bytes) in blocks.bytes.chunks(piece).enumerate() {
            let params = DequantizeParams {
                blocks: staging.stage(stream, bytes, &on_card).map_err(failed)?,
                out: to.after(i * piece / row_bytes * width),
                n_vectors: (bytes.len() / row_bytes * width / 8) as u64,
                width: width as i32,
                head_dim: blocks.interleaved as i32,
                factor: blocks.factor,
                offset: blocks.offset,
            };
            let mut kernel = Kernel::new("dequantize", "dequantize");
            kernel.macros.push(("FORMAT", Macro::Name(name)));
            // SAFETY: as the header of kernels/dequantize.cu says: the piece holds whole rows, whose place is
            // after `to`.
            unsafe { self.launch_on(stream, &kernel, Work::new(params.n_vectors as usize, 1), &params)? };
        }
        Ok(())
    }

    /// Returns the memory that blocks go through; takes it on the first call.
    fn on_card(&self) -> Result<Arc<OnCard>, DriverError> {
        let mut place = self.on_card.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(on_card) = &*place {
            return Ok(on_card.clone());
        }
        let on_card = Arc::new(OnCard::new(self.stream.context(), THREADS)?);
        *place = Some(on_card.clone());
        Ok(on_card)
    }
}
