// The data of an interactive view, and its cells and colours. Rows are queries, columns are keys.
// The data are attributes of the view's element: `data-summary` (JSON) and `data-masks` (base64 of zlib; see
// pack.rs).

const PLOT = 512, LEFT = 96, TOP = 96; // pixels of the map and of its margins
const CLOSEST = 32; // the smallest number of tokens along a side
const DECADES = 4; // of the colour scale, which ends at 100 %
const MAGMA = [
  "#000004", "#1d1147", "#51127c", "#832681", "#b73779", "#e65163", "#fb8761", "#fec287", "#fcfdbf",
];
const THEMES = {
  light: { outside: "#ffffff", pruned: "#dde2e8", ink: "#1f242b", from: 0.83, to: 0.04 },
  dark: { outside: "#15181c", pruned: "#2b3038", ink: "#dfe3e8", from: 0.3, to: 1.0 },
};

const mass = (level) => 10 ** (5 * (level / 255 - 1));
const number = (n) => n.toLocaleString("en");
const percent = (share) => `${(100 * share).toPrecision(2).replace(/\.0$/, "")} %`;
const span = ([start, end]) => (end - start === 1 ? number(start) : `${number(start)} to ${number(end - 1)}`);
const several = (one, many, tokens) => `${tokens[1] - tokens[0] === 1 ? one : many} ${span(tokens)}`;

// ---- Data

async function inflated(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Reads bytes and LEB128 integers (seven bits per byte, the lowest first), which pack.rs wrote. */
function reader(bytes) {
  let at = 0;
  const take = (n) => bytes.subarray(at, (at += n));
  const integer = () => {
    let value = 0, scale = 1, byte;
    do {
      byte = bytes[at++];
      value += (byte & 127) * scale;
      scale *= 128;
    } while (byte > 127);
    return value;
  };
  return { take, integer };
}

/**
 * Reads the kept cells of `n` rows. Row r has columns[starts[r]..starts[r + 1]], ascending, each with the level of
 * its mass.
 */
function matrix(read, n, first, rowSize, columnSize) {
  const starts = new Uint32Array(n + 1);
  for (let row = 0; row < n; row++) starts[row + 1] = starts[row] + read.integer();
  const columns = new Uint32Array(starts[n]);
  for (let row = 0; row < n; row++) {
    for (let i = starts[row], column = 0; i < starts[row + 1]; i++) columns[i] = column += read.integer();
  }
  return { n, first, rowSize, columnSize, starts, columns, levels: read.take(starts[n]) };
}

function decode(bytes, summary) {
  const read = reader(bytes), { n_tokens, focus, row, column } = summary;
  const text = read.take(summary.n_text);
  const spans = new Uint32Array(2 * n_tokens);
  for (let token = 0, start = 0; token < n_tokens; token++) {
    spans[2 * token] = start += read.integer();
    spans[2 * token + 1] = start + read.integer();
  }
  const utf8 = new TextDecoder();
  const words = ([start, end]) => {
    if (start >= end) return "";
    return utf8.decode(text.subarray(spans[2 * start], Math.max(spans[2 * end - 1], spans[2 * start])));
  };
  const heads = summary.heads.map((head) => ({
    ...head,
    blocks: matrix(read, Math.ceil(n_tokens / row), 0, row, column),
    keys: matrix(read, focus[1] - focus[0], focus[0], 1, 1),
  }));
  return { ...summary, words, heads };
}

// ---- Cells

/** Cuts tokens start..end into at most `max` cells. */
function cells([start, end], max) {
  const length = end - start, n = Math.min(length, max);
  const edge = (cell) => start + Math.floor((cell * length) / n);
  return {
    start, end, n,
    tokens: (cell) => [edge(cell), edge(cell + 1)],
    of: (token) => Math.floor(((Math.min(Math.max(token, start), end - 1) - start + 1) * n - 1) / length),
  };
}

/** Returns the highest level in each cell, -1 where nothing was kept. */
function highest(kept, queries, keys) {
  const levels = new Int16Array(queries.n * keys.n).fill(-1);
  const firstRow = Math.max(0, Math.floor((queries.start - kept.first) / kept.rowSize));
  for (let row = firstRow; row < kept.n; row++) {
    const query = kept.first + row * kept.rowSize;
    if (query >= queries.end) break;
    const top = queries.of(query), bottom = queries.of(query + kept.rowSize - 1);
    for (let i = kept.starts[row]; i < kept.starts[row + 1]; i++) {
      const key = kept.columns[i] * kept.columnSize;
      if (key >= keys.end || key + kept.columnSize <= keys.start) continue;
      const left = keys.of(key), right = keys.of(key + kept.columnSize - 1);
      for (let y = top; y <= bottom; y++) {
        for (let x = left; x <= right; x++) {
          const cell = y * keys.n + x;
          if (kept.levels[i] > levels[cell]) levels[cell] = kept.levels[i];
        }
      }
    }
  }
  return levels;
}

/** Returns whether one of the queries sees one of the keys. */
const seen = (queries, keys, window) =>
  keys[0] < queries[1] && (!window || keys[1] + window > queries[0] + 1);

// ---- Colours

const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

/** Returns the theme of the page around an element: dark if its text is light. */
function themeOf(element) {
  const [r, g, b] = getComputedStyle(element).color.match(/[\d.]+/g).map(Number);
  return r + g + b > 382 ? THEMES.dark : THEMES.light;
}

function colorOf(theme, level) {
  const share = Math.min(1, Math.max(0, 1 + Math.log10(mass(level)) / DECADES)) ** 1.3;
  const at = (theme.from + (theme.to - theme.from) * share) * (MAGMA.length - 1);
  const low = Math.min(Math.floor(at), MAGMA.length - 2), high = channels(MAGMA[low + 1]);
  return channels(MAGMA[low]).map((c, i) => Math.round(c + (high[i] - c) * (at - low)));
}

const pixel = ([r, g, b]) => new Uint32Array(new Uint8Array([r, g, b, 255]).buffer)[0];

/** Returns the pixels of levels 0 to 255, of pruned cells, and of cells that no query sees. */
function paletteOf(theme) {
  theme.palette ??= Uint32Array.from({ length: 258 }, (_, level) =>
    pixel(level < 256 ? colorOf(theme, level) : channels(level === 256 ? theme.pruned : theme.outside)));
  return theme.palette;
}

/** Draws one pixel per cell. */
function picture(levels, queries, keys, window, theme) {
  const canvas = element("canvas", { width: keys.n, height: queries.n });
  const context = canvas.getContext("2d"), image = context.createImageData(keys.n, queries.n);
  const pixels = new Uint32Array(image.data.buffer), palette = paletteOf(theme);
  const columns = Array.from({ length: keys.n }, (_, x) => keys.tokens(x));
  for (let y = 0, cell = 0; y < queries.n; y++) {
    const row = queries.tokens(y);
    for (let x = 0; x < keys.n; x++, cell++) {
      pixels[cell] = palette[!seen(row, columns[x], window) ? 257 : levels[cell] < 0 ? 256 : levels[cell]];
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
