//! A layer's record of some rows, on its way to the first rank.

use std::io::{self, BufWriter, Read, Write};

use serde::{Deserialize, Serialize};

use crate::{
    engine::device::StageCosts,
    trace::{BlockMask, Blocks, Budgets, LayerRecord},
};

/// What one rank recorded of a layer: everything by query block is of its own query blocks alone, and what keys
/// received is from its own queries.
pub struct PartRecord {
    pub layer: usize,
    pub record: LayerRecord,
    pub costs: StageCosts,
}

/// What goes before the arrays.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Header {
    layer: usize,
    costs: StageCosts,
    budgets: Vec<usize>,
    /// Lengths of the arrays, in their order.
    lens: Vec<usize>,
}

/// Numbers that are written or read at a time.
const AT_A_TIME: usize = 1 << 16;

impl PartRecord {
    pub(super) fn header(&self) -> Header {
        let LayerRecord { mask, experts, .. } = &self.record;
        let floats = floats(&self.record).into_iter().map(<[f32]>::len);
        let lens = floats.chain([mask.kept.len(), experts.len()]).collect();
        Header { layer: self.layer, costs: self.costs, budgets: mask.budgets.as_slice().to_vec(), lens }
    }

    /// Writes the arrays, little-endian, one after the other.
    ///
    /// # Errors
    /// The writer's own.
    pub(super) fn write_arrays(&self, out: &mut impl Write) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(4 * AT_A_TIME, out);
        for array in floats(&self.record) {
            put(&mut out, array, f32::to_le_bytes)?;
        }
        put(&mut out, &self.record.mask.kept, u32::to_le_bytes)?;
        put(&mut out, &self.record.experts, u16::to_le_bytes)?;
        out.flush()
    }

    /// Reads the arrays that follow a header, of a prompt with these blocks.
    ///
    /// # Errors
    /// The reader's own; of a header that lacks arrays.
    pub(super) fn read(header: Header, input: &mut impl Read, blocks: Blocks) -> io::Result<Self> {
        let Header { layer, costs, budgets, lens } = header;
        let lens: [usize; 11] = lens.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
        let mut next = lens.into_iter();
        let mut floats = || take(input, next.next().unwrap_or(0), f32::from_le_bytes);
        let [mass, received, focus, written, residual] =
            [floats()?, floats()?, floats()?, floats()?, floats()?];
        let [proximity, vertical, recall, on_sink] = [floats()?, floats()?, floats()?, floats()?];
        let kept = take(input, lens[9], u32::from_le_bytes)?;
        let experts = take(input, lens[10], u16::from_le_bytes)?;
        let mask = BlockMask { blocks, budgets: Budgets::new(budgets), kept };
        let record = LayerRecord {
            mask,
            mass,
            received,
            focus,
            written,
            residual,
            proximity,
            vertical,
            recall,
            on_sink,
            experts,
        };
        Ok(PartRecord { layer, record, costs })
    }
}

/// The arrays of f32, in the order in which they travel.
fn floats(record: &LayerRecord) -> [&[f32]; 9] {
    let LayerRecord {
        mass, received, focus, written, residual, proximity, vertical, recall, on_sink, ..
    } = record;
    [mass, received, focus, written, residual, proximity, vertical, recall, on_sink].map(Vec::as_slice)
}

fn put<T: Copy, const N: usize>(
    out: &mut impl Write,
    values: &[T],
    to: impl Fn(T) -> [u8; N],
) -> io::Result<()> {
    let mut bytes = Vec::new();
    values.chunks(AT_A_TIME).try_for_each(|values| {
        bytes.resize(values.len() * N, 0);
        bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(place, &value)| *place = to(value));
        out.write_all(&bytes)
    })
}

fn take<T, const N: usize>(
    input: &mut impl Read,
    len: usize,
    from: impl Fn([u8; N]) -> T,
) -> io::Result<Vec<T>> {
    let (mut values, mut bytes) = (Vec::with_capacity(len), Vec::new());
    while values.len() < len {
        bytes.resize((len - values.len()).min(AT_A_TIME) * N, 0);
        input.read_exact(&mut bytes)?;
        values.extend(bytes.as_chunks().0.iter().map(|&number| from(number)));
    }
    Ok(values)
}
