// Questions to the kept cells: what a query gives a key, a row, a column, the cells of a picture.

/** Cuts tokens start..end into at most `max` cells. */
function cells([start, end], max) {
  const length = end - start, n = Math.max(1, Math.min(length, Math.floor(max)));
  const edge = (cell) => start + Math.floor((cell * length) / n);
  return {
    start, end, n,
    tokens: (cell) => [edge(cell), edge(cell + 1)],
    of: (token) => Math.floor(((Math.min(Math.max(token, start), end - 1) - start + 1) * n - 1) / length),
  };
}

/** Whether a query's attention was recorded key by key. */
const recorded = ({ focus }, query) => focus[0] <= query && query < focus[1];

/** Returns those of some queries that only blocks tell of, or null: the ones before the focus, else those after it. */
function unrecorded({ focus }, start, end) {
  if (start < focus[0]) return [start, Math.min(end, Math.max(focus[0], start + 1))];
  const first = start < focus[1] ? focus[1] : start;
  return first < end ? [first, end] : null;
}

/** Returns the cells that tell most about a query in a head, and its row there. */
function rowOf(trace, head, query) {
  const kept = recorded(trace, query) ? head.keys : head.blocks;
  return { kept, row: Math.floor((query - kept.first) / kept.rowSize) };
}

/** Returns the place of a column in a row, or -1. */
function place({ starts, columns }, row, column) {
  let low = starts[row], high = starts[row + 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (columns[middle] < column) low = middle + 1;
    else high = middle;
  }
  return low < starts[row + 1] && columns[low] === column ? low : -1;
}

/** Returns what a query gives a key: the bits of the key's mass, or of the block's where single keys are not known. */
function attention(trace, head, query, key) {
  const { kept, row } = rowOf(trace, head, query);
  const at = place(kept, row, Math.floor(key / kept.columnSize));
  return at >= 0 ? kept.bits[at] : kept.left[row] ? CUT : PRUNED;
}

/** Returns the queries and keys that a pair's number stands for: two tokens, or a query block and a key block. */
function pairOf(trace, query, key, nTokens) {
  if (recorded(trace, query)) return { exact: true, queries: [query, query + 1], keys: [key, key + 1] };
  const around = (token, size) => {
    const start = token - (token % size);
    return [start, Math.min(start + size, nTokens)];
  };
  return { exact: false, queries: around(query, trace.row), keys: around(key, trace.column) };
}

/** Returns a query's kept cells, strongest first, as `[first key, end, bits]`. */
function looksAt(trace, head, query, nTokens) {
  const { kept, row } = rowOf(trace, head, query), found = [];
  for (let i = kept.starts[row]; i < kept.starts[row + 1]; i++) {
    const key = kept.columns[i] * kept.columnSize;
    found.push([key, Math.min(key + kept.columnSize, nTokens), kept.bits[i]]);
  }
  return found.sort((a, b) => b[2] - a[2] || a[0] - b[0]);
}

/** Returns who looks at a key, strongest first, as `[first query, end, bits]`. */
function lookedAtBy(trace, head, key, nTokens) {
  const found = [];
  for (const kept of [head.blocks, head.keys]) {
    const column = Math.floor(key / kept.columnSize);
    for (let row = 0; row < kept.n; row++) {
      const at = place(kept, row, column);
      if (at < 0) continue;
      const start = kept.first + row * kept.rowSize, end = Math.min(start + kept.rowSize, nTokens);
      const told = kept === head.blocks ? unrecorded(trace, start, end) : [start, end];
      if (told) found.push([...told, kept.bits[at]]);
    }
  }
  return found.sort((a, b) => b[2] - a[2] || a[0] - b[0]);
}

/** Lays over `shades`, bits by token, the spans that a head adds; the largest wins. */
function shade(shades, spans) {
  for (const [start, end, bits] of spans) {
    for (let token = start; token < end; token++) if (bits > shades[token]) shades[token] = bits;
  }
}

/**
 * Returns the highest bits in each cell; PRUNED where nothing was kept, CUT where the view does not tell. Rows that
 * were recorded key by key are drawn so where a row of the picture is one token.
 */
function highest(trace, head, queries, keys) {
  const levels = new Int16Array(queries.n * keys.n).fill(PRUNED);
  const { start, end } = queries, inside = (token) => Math.min(Math.max(token, start), end);
  const [first, last] = queries.n === end - start ? trace.focus.map(inside) : [end, end];
  lay(levels, head.blocks, queries, keys, [start, first]);
  lay(levels, head.keys, queries, keys, [first, last]);
  lay(levels, head.blocks, queries, keys, [last, end]);
  return levels;
}

/** Lays the kept cells of queries first..end into a picture's cells. */
function lay(levels, kept, queries, keys, [first, end]) {
  if (first >= end) return;
  const { rowSize, columnSize, starts, columns, bits } = kept, width = keys.n;
  const lastRow = Math.min(kept.n - 1, Math.floor((end - 1 - kept.first) / rowSize));
  // The cells that each column from the first one that is seen covers.
  const seen = Math.floor(keys.start / columnSize), n = Math.ceil(keys.end / columnSize) - seen;
  const lefts = Uint16Array.from({ length: n }, (_, i) => keys.of((seen + i) * columnSize));
  const rights = Uint16Array.from({ length: n }, (_, i) => keys.of((seen + i + 1) * columnSize - 1));
  for (let row = Math.floor((first - kept.first) / rowSize); row <= lastRow; row++) {
    const query = kept.first + row * rowSize;
    const top = queries.of(Math.max(query, first)), bottom = queries.of(Math.min(query + rowSize, end) - 1);
    if (kept.left[row]) {
      for (let cell = top * width; cell < (bottom + 1) * width; cell++) if (levels[cell] === PRUNED) levels[cell] = CUT;
    }
    for (let i = starts[row]; i < starts[row + 1]; i++) {
      const column = columns[i] - seen;
      if (column >= n) break;
      if (column < 0) continue;
      const mass = bits[i], right = rights[column];
      for (let y = top * width; y <= bottom * width; y += width) {
        for (let cell = y + lefts[column]; cell <= y + right; cell++) if (mass > levels[cell]) levels[cell] = mass;
      }
    }
  }
}

/** Returns the strongest pair among some queries and keys, `[query, key]`: what a cell of a picture shows. */
function strongestIn(trace, head, queries, keys) {
  let best = null, most = -1;
  for (const kept of [head.keys, head.blocks]) {
    const first = Math.max(kept.first, queries[0]), end = Math.min(kept.first + kept.n * kept.rowSize, queries[1]);
    for (let row = Math.floor((first - kept.first) / kept.rowSize); kept.first + row * kept.rowSize < end; row++) {
      const start = Math.max(kept.first + row * kept.rowSize, queries[0]);
      const told = kept === head.keys ? [start] : unrecorded(trace, start, Math.min(end, (row + 1) * kept.rowSize));
      if (!told) continue;
      const [query] = told;
      for (let i = kept.starts[row]; i < kept.starts[row + 1]; i++) {
        const key = kept.columns[i] * kept.columnSize;
        if (key >= keys[1]) break;
        if (key + kept.columnSize <= keys[0] || kept.bits[i] <= most) continue;
        [best, most] = [[query, Math.max(key, keys[0])], kept.bits[i]];
      }
    }
  }
  return best;
}
