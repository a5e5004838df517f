// The data of an interactive view, in typed arrays. They lie in the view's element: its attribute `data-summary`
// (JSON), and elements `data` whose values are base64 of zlib: the text, then some heads each (data.rs and pack.rs write
// them). Rows are queries, columns are keys. A mass is what the trace has, the 16 bits of a half, which rise with the mass.

const ONE = 0x3c00; // the bits of a mass of 1
const PRUNED = -1, CUT = -2; // in place of bits: pruned; pruned or left out of this view

/** The mass of each of the halves from 0 to 1. */
const MASSES = Float32Array.from({ length: ONE + 1 }, (_, bits) => {
  const exponent = bits >> 10, fraction = (bits & 1023) / 1024;
  return exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14;
});

/** Unpacks pieces one after the other, in the same memory. */
class Unpacker {
  constructor() { [this.packed, this.plain] = [new Uint8Array(1 << 21), new Uint8Array(1 << 21)]; }

  /** Unpacks a piece; what it returns is overwritten by the next one. */
  async unpacked(base64) {
    if (this.packed.length < base64.length) this.packed = new Uint8Array(2 * base64.length);
    const bytes = this.packed.subarray(0, fromBase64(base64, this.packed));
    const chunks = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
    for (let n = 0; ;) {
      const { done, value } = await chunks.read();
      if (done) return this.plain.subarray(0, n);
      if (n + value.length > this.plain.length) {
        const larger = new Uint8Array(2 * (n + value.length));
        larger.set(this.plain);
        this.plain = larger;
      }
      this.plain.set(value, n);
      n += value.length;
    }
  }
}

/** Decodes base64 into an array; returns the number of bytes. */
function fromBase64(base64, into) {
  if (into.setFromBase64) return into.setFromBase64(base64).written;
  const text = atob(base64);
  for (let i = 0; i < text.length; i++) into[i] = text.charCodeAt(i);
  return text.length;
}

/** A place in bytes. */
class Reader {
  constructor(bytes) { Object.assign(this, { bytes, at: 0 }); }

  take(n) { return this.bytes.subarray(this.at, (this.at += n)); }

  /** Reads LEB128 integers (seven bits per byte, the lowest first) into an array. */
  integers(into) {
    const { bytes } = this;
    let { at } = this;
    for (let i = 0; i < into.length; i++) {
      let byte = bytes[at++], value = byte & 127;
      for (let scale = 128; byte > 127; scale *= 128) {
        byte = bytes[at++];
        value += (byte & 127) * scale;
      }
      into[i] = value;
    }
    this.at = at;
    return into;
  }
}

/**
 * Reads the kept cells of `n` rows. Row r has columns[starts[r]..starts[r + 1]], ascending, each with the bits of its
 * mass; left[r] of its cells are left out.
 */
function matrix(read, n, nColumns, first, rowSize, columnSize) {
  const counts = read.integers(new Uint32Array(n)), left = read.integers(new Uint32Array(n));
  const starts = new Uint32Array(n + 1);
  for (let row = 0; row < n; row++) starts[row + 1] = starts[row] + counts[row];
  const length = starts[n];
  const columns = read.integers(nColumns > 65536 ? new Uint32Array(length) : new Uint16Array(length));
  for (let row = 0; row < n; row++) {
    for (let i = starts[row] + 1; i < starts[row + 1]; i++) columns[i] += columns[i - 1];
  }
  const bits = new Uint16Array(length), high = read.take(length), low = read.take(length);
  for (let i = 0; i < length; i++) bits[i] = (high[i] << 8) | low[i];
  return { n, first, rowSize, columnSize, starts, left, columns, bits };
}

/** Reads the text and where each token starts and ends in it. */
function prompt(bytes, { n_tokens, n_text }) {
  const read = new Reader(bytes), text = new TextDecoder().decode(read.take(n_text));
  const steps = read.integers(new Uint32Array(2 * n_tokens));
  const starts = new Uint32Array(n_tokens), ends = new Uint32Array(n_tokens);
  for (let token = 0, start = 0; token < n_tokens; token++) {
    starts[token] = start += steps[2 * token];
    ends[token] = start + steps[2 * token + 1];
  }
  const words = ([start, end]) => (start < end ? text.slice(starts[start], Math.max(ends[end - 1], starts[start])) : "");
  return { text, starts, ends, words };
}

/** Reads everything. A piece is gone before the next one is unpacked, so that little lies in memory twice. */
async function decoded(root) {
  const summary = JSON.parse(root.dataset.summary), pieces = [...root.querySelectorAll(":scope > data")];
  const unpacker = new Unpacker();
  const next = async () => {
    const piece = pieces.shift(), { value } = piece;
    piece.removeAttribute("value");
    return unpacker.unpacked(value);
  };
  const { n_tokens, traces } = summary, read = { ...summary, ...prompt(await next(), summary) };
  for (const trace of traces) {
    trace.heads = trace.heads.map(([layer, head, window, ...shares]) =>
      ({ layer, head, window, shown: shares.slice(0, 2), floors: shares.slice(2) }));
  }
  for (const { heads, focus: [start, end], row, column } of traces) {
    let piece = new Reader(new Uint8Array(0));
    for (const head of heads) {
      if (piece.at === piece.bytes.length) piece = new Reader(await next());
      head.blocks = matrix(piece, Math.ceil(n_tokens / row), Math.ceil(n_tokens / column), 0, row, column);
      head.keys = matrix(piece, end - start, n_tokens, start, 1, 1);
    }
  }
  return read;
}
