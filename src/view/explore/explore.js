// Looks into a trace: all heads, one head's map, its blocks, its tokens with their text. Rows are queries, columns are keys.
// The data stand in the element's attributes: `data-summary` (JSON) and `data-masks` (base64 of zlib; see sparse.rs).
(() => {
  "use strict";

  const PLOT = 512, LEFT = 96, TOP = 96; // pixels of the map and of its margins
  const CLOSEST = 32; // fewest tokens along a side
  const DECADES = 4; // of the colours, up to 100 %
  const MAGMA = ["#000004", "#1d1147", "#51127c", "#832681", "#b73779", "#e65163", "#fb8761", "#fec287", "#fcfdbf"];
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

  /** Reads what sparse.rs wrote: numbers of seven bits a byte, the lowest first. */
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

  /** Kept cells of `n` rows: row r has columns[starts[r]..starts[r + 1]], ascending, each with the level of its mass. */
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

  /** Tokens start..end cut into at most `max` cells. */
  function cells([start, end], max) {
    const length = end - start, n = Math.min(length, max);
    const edge = (cell) => start + Math.floor((cell * length) / n);
    return {
      start, end, n,
      tokens: (cell) => [edge(cell), edge(cell + 1)],
      of: (token) => Math.floor(((Math.min(Math.max(token, start), end - 1) - start + 1) * n - 1) / length),
    };
  }

  /** The highest level in each cell, -1 where nothing is kept. */
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

  const seen = (queries, keys, window) => keys[0] < queries[1] && (!window || keys[1] + window > queries[0] + 1);

  // ---- Colours

  const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

  /** Whether the page around an element has light text. */
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

  /** Pixels of levels 0 to 255, then of what is pruned and of what no query sees. */
  function paletteOf(theme) {
    theme.palette ??= Uint32Array.from({ length: 258 }, (_, level) =>
      pixel(level < 256 ? colorOf(theme, level) : channels(level === 256 ? theme.pruned : theme.outside)));
    return theme.palette;
  }

  /** One pixel a cell. */
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

  // ---- Elements

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  const visible = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥");

  /** Tokens with some of the text around them; long ones are cut. */
  function passage(trace, [start, end], around) {
    const cut = Math.min(end, start + 64);
    const before = visible(trace.words([Math.max(0, start - around), start]));
    const after = cut < end ? " …" : visible(trace.words([end, Math.min(trace.n_tokens, end + around)]));
    return [before, element("mark", {}, visible(trace.words([start, cut]))), after];
  }

  // ---- The view

  function view(root, trace) {
    const whole = [0, trace.n_tokens];
    const state = { head: 0, queries: whole, keys: whole, query: trace.n_tokens - 1, key: 0 };
    const window = () => trace.heads[state.head].window;

    const status = element("p", { class: "status", role: "status", "aria-live": "polite" });
    const title = element("h4", {});
    const canvas = element("canvas", {
      tabindex: 0, role: "application", "aria-roledescription": "attention map",
      "aria-label": "Attention map. Arrow keys move the cursor, plus and minus zoom, Home shows the whole prompt.",
      onkeydown: pressed, onclick: chosen, ondblclick: () => zoom(1 / 4),
    });
    const button = (text, onclick) => element("button", { type: "button", onclick }, text);
    const tools = element("div", { class: "tools" },
      button("Zoom in", () => zoom(1 / 4)), button("Zoom out", () => zoom(4)),
      button("Whole prompt", () => show(whole, whole)),
      button("What the output read", () => (move(trace.n_tokens - 1, state.key), show(trace.focus, whole))));
    const caption = element("p", { class: "caption" });
    const query = element("p", { class: "passage" }), key = element("p", { class: "passage" }), most = element("ol", {});
    const panel = element("div", { class: "panel" },
      status, element("h5", {}, "Query"), query, element("h5", {}, "Key"), key,
      element("h5", {}, "Where this query looks most"), most);
    const buttons = trace.heads.map(headButton);
    const names = (what, n) => Array.from({ length: n }, (_, i) => element("span", { "aria-hidden": true }, i ? `${i}` : `${what} 0`));
    const rows = trace.heads.flatMap(({ layer }, i) => {
      const name = i ? `${layer}` : `layer ${layer}`;
      return i % trace.n_heads ? [buttons[i]] : [element("span", { "aria-hidden": true }, name), buttons[i]];
    });
    root.replaceChildren(
      element("p", {}, element("b", {}, trace.title), ` · ${trace.facts}`),
      element("div", {
        class: "heads", role: "group", onkeydown: walked, style: `--heads: ${trace.n_heads}`,
        "aria-label": "Heads. Rows are layers, columns are heads; arrow keys move, Enter opens.",
      }, element("span"), ...names("head", trace.n_heads), ...rows),
      title, tools, element("div", { class: "both" }, element("div", {}, canvas, legend(), caption), panel),
      element("p", { class: "caption" }, trace.notes));
    root.style.display = "";
    paintHeads();
    state.key = (strongest(trace.heads[0].blocks, state.query, 1)[0]?.[0] ?? 0) * trace.column;
    open(0);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (paintHeads(), draw()));

    function headButton({ layer, head }, index) {
      const label = { "aria-label": `layer ${layer}, head ${head}`, title: `layer ${layer}, head ${head}` };
      const size = trace.n_heads > 16 ? 24 : 56;
      const thumb = element("canvas", { width: size, height: size });
      return element("button", { ...label, type: "button", tabindex: -1, onclick: () => open(index) }, thumb);
    }

    function paintHeads() {
      const theme = themeOf(root);
      buttons.forEach((made, index) => {
        const thumb = made.firstChild, side = cells(whole, thumb.width), { blocks, window } = trace.heads[index];
        thumb.getContext("2d").drawImage(picture(highest(blocks, side, side), side, side, window, theme), 0, 0);
      });
    }

    function legend() {
      const name = (color, text) => element("span", { class: `swatch ${color}` }, text);
      const ends = [element("span", {}, "0.01 %"), element("canvas", { class: "scale", width: 120, height: 10 })];
      return element("p", { class: "legend" }, ...ends, element("span", {}, "100 %"),
        name("pruned", "pruned or too weak to show"), name("outside", "after the query"));
    }

    function paintLegend(theme) {
      const scale = root.querySelector(".scale"), context = scale.getContext("2d");
      for (let x = 0; x < scale.width; x++) {
        const level = 255 * (1 + ((x / (scale.width - 1) - 1) * DECADES) / 5);
        context.fillStyle = `rgb(${colorOf(theme, level)})`;
        context.fillRect(x, 0, 1, scale.height);
      }
      root.style.setProperty("--pruned", theme.pruned);
      root.style.setProperty("--outside", theme.outside);
    }

    /** Arrow keys among the heads: one of them at a time can be reached with Tab. */
    function walked(event) {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -trace.n_heads, ArrowDown: trace.n_heads }[event.key];
      const next = buttons[buttons.indexOf(event.target) + step];
      if (!next) return;
      event.preventDefault();
      buttons.forEach((made) => (made.tabIndex = made === next ? 0 : -1));
      next.focus();
    }

    function open(index) {
      state.head = index;
      buttons.forEach((made, i) => {
        made.setAttribute("aria-pressed", i === index);
        made.tabIndex = i === index ? 0 : -1;
      });
      draw();
    }

    function show(queries, keys) {
      const inside = ([start, end], token) => Math.min(Math.max(token, start), end - 1);
      Object.assign(state, { queries, keys, query: inside(queries, state.query), key: inside(keys, state.key) });
      draw();
    }

    function move(query, key) {
      const inside = (token) => Math.min(Math.max(token, 0), trace.n_tokens - 1);
      [state.query, state.key] = [inside(query), inside(key)];
    }

    /** Shows `factor` times as much around the cursor. */
    function zoom(factor) {
      const around = ([start, end], token) => {
        const length = Math.min(Math.max(Math.round((end - start) * factor), CLOSEST), trace.n_tokens);
        const first = Math.round(token + 0.5 - length * ((token - start + 0.5) / (end - start)));
        const from = Math.min(Math.max(first, token + 1 - length, 0), token, trace.n_tokens - length);
        return [from, from + length];
      };
      show(around(state.queries, state.query), around(state.keys, state.key));
    }

    function chosen(event) {
      const box = canvas.getBoundingClientRect(), scale = (LEFT + PLOT) / box.width;
      const [x, y] = [(event.clientX - box.left) * scale - LEFT, (event.clientY - box.top) * scale - TOP];
      if (x < 0 || y < 0) return;
      const token = ([start, end], at) => start + Math.floor(((end - start) * Math.min(at, PLOT - 1)) / PLOT);
      move(token(state.queries, y), token(state.keys, x));
      draw();
    }

    function pressed(event) {
      const { queries, keys } = sides(), [q, k] = [queries.of(state.query), keys.of(state.key)];
      const to = (y, x) => {
        const cell = (side, at) => side.tokens(Math.min(Math.max(at, 0), side.n - 1))[0];
        move(cell(queries, y), cell(keys, x));
        draw();
      };
      const actions = {
        ArrowLeft: () => to(q, k - 1), ArrowRight: () => to(q, k + 1), ArrowUp: () => to(q - 1, k), ArrowDown: () => to(q + 1, k),
        "+": () => zoom(1 / 4), "=": () => zoom(1 / 4), Enter: () => zoom(1 / 4), "-": () => zoom(4), Home: () => show(whole, whole),
      };
      if (!actions[event.key] || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      actions[event.key]();
    }

    function sides() {
      return { queries: cells(state.queries, PLOT), keys: cells(state.keys, PLOT) };
    }

    /** Key by key where all queries were recorded so, else block by block. */
    function shown() {
      const { blocks, keys } = trace.heads[state.head];
      const recorded = trace.focus[0] <= state.queries[0] && state.queries[1] <= trace.focus[1];
      return recorded ? keys : blocks;
    }

    function draw() {
      const theme = themeOf(root), { queries, keys } = sides(), kept = shown();
      const levels = highest(kept, queries, keys), { layer, head } = trace.heads[state.head];
      title.textContent = `layer ${layer} · head ${head}`;
      paintLegend(theme);
      paint(theme, picture(levels, queries, keys, window(), theme), queries, keys);
      caption.textContent = captionOf(kept, queries, keys);
      describe(levels, queries, keys, kept);
    }

    function captionOf(kept, queries, keys) {
      const { block_floor, key_floor } = trace.heads[state.head], exact = kept.rowSize === 1;
      const what = exact ? "Attention of a query token on a key token" : "Attention mass on a key block, mean over a query block";
      const [height, width] = [queries, keys].map((side) => Math.ceil((side.end - side.start) / side.n));
      const largest = height > 1 || width > 1 ? `, the largest of ${height} × ${width} tokens` : "";
      const floor = exact ? key_floor : block_floor;
      return `${what}${largest}.${floor > 0 ? ` Below ${percent(floor)} is left out.` : ""}`;
    }

    function paint(theme, cellsPicture, queries, keys) {
      const ratio = devicePixelRatio || 1, context = canvas.getContext("2d");
      [canvas.width, canvas.height] = [(LEFT + PLOT) * ratio, (TOP + PLOT) * ratio];
      context.scale(ratio, ratio);
      context.imageSmoothingEnabled = false;
      context.drawImage(cellsPicture, LEFT, TOP, PLOT, PLOT);
      context.fillStyle = theme.ink;
      context.font = "11px system-ui, Helvetica, Arial, sans-serif";
      context.textBaseline = "middle";
      context.textAlign = "right";
      labels(queries, (text, at) => context.fillText(text, LEFT - 6, TOP + at, LEFT - 12));
      context.textAlign = "left";
      labels(keys, (text, at) => {
        context.save();
        context.translate(LEFT + at, TOP - 6);
        context.rotate(-Math.PI / 2);
        context.fillText(text, 0, 0, TOP - 12);
        context.restore();
      });
      const cell = (side, token) => [side.of(token) * (PLOT / side.n), PLOT / side.n];
      const [[y, height], [x, width]] = [cell(queries, state.query), cell(keys, state.key)];
      const grow = Math.max(0, (9 - Math.min(width, height)) / 2);
      for (const [color, lineWidth] of [[theme.outside, 4], ["#2a8fd8", 2]]) {
        Object.assign(context, { strokeStyle: color, lineWidth });
        context.strokeRect(LEFT + x - grow, TOP + y - grow, width + 2 * grow, height + 2 * grow);
      }
    }

    /** Texts of tokens where there is room, else round positions. */
    function labels(side, write) {
      const size = PLOT / side.n, each = Math.ceil((side.end - side.start) / 8);
      if (size >= 11 && side.n === side.end - side.start) {
        for (let i = 0; i < side.n; i++) write(visible(trace.words([side.start + i, side.start + i + 1])).slice(0, 16), (i + 0.5) * size);
        return;
      }
      const step = [1, 2, 5].flatMap((m) => Array.from({ length: 9 }, (_, e) => m * 10 ** e)).sort((a, b) => a - b).find((s) => s >= each);
      for (let token = Math.ceil(side.start / step) * step; token < side.end; token += step) {
        write(number(token), ((token - side.start + 0.5) / (side.end - side.start)) * PLOT);
      }
    }

    /** Says in words what is under the cursor, and where its query looks most. */
    function describe(levels, queries, keys, kept) {
      const [y, x] = [queries.of(state.query), keys.of(state.key)], level = levels[y * keys.n + x];
      const at = [queries.tokens(y), keys.tokens(x)];
      const what = !seen(...at, window()) ? "no query here sees this key" : level < 0 ? "pruned, or too weak to show" : percent(mass(level));
      status.textContent = `${several("Query", "Queries", at[0])}, ${several("key", "keys", at[1])}: ${what}`;
      query.replaceChildren(...passage(trace, at[0], 12));
      key.replaceChildren(...passage(trace, at[1], 12));
      most.replaceChildren(...strongest(kept, state.query, 6).map(([column, level]) => {
        const keys = [column * kept.columnSize, Math.min((column + 1) * kept.columnSize, trace.n_tokens)];
        const go = button("", () => (move(state.query, keys[0]), reveal()));
        go.append(`${percent(mass(level))} on ${span(keys)}: `, ...passage(trace, keys, 2));
        return element("li", {}, go);
      }));
    }

    /** The kept columns of a query's row with the most mass. */
    function strongest(kept, token, n) {
      const row = Math.floor((token - kept.first) / kept.rowSize), found = [];
      for (let i = kept.starts[row]; i < kept.starts[row + 1]; i++) found.push([kept.columns[i], kept.levels[i]]);
      return found.sort((a, b) => b[1] - a[1]).slice(0, n);
    }

    /** Moves the keys that are shown so that the cursor is among them. */
    function reveal() {
      const [start, end] = state.keys, length = end - start;
      const from = Math.min(Math.max(state.key - (length >> 1), 0), trace.n_tokens - length);
      show(state.queries, start <= state.key && state.key < end ? state.keys : [from, from + length]);
    }
  }

  async function explore(root) {
    try {
      const summary = JSON.parse(root.dataset.summary);
      view(root, decode(await inflated(root.dataset.masks), summary));
      root.dataset.state = "ready";
    } catch (error) {
      root.dataset.state = "failed";
      root.append(element("p", {}, `This browser cannot show it: ${error.message}`));
      throw error;
    }
  }

  for (const root of document.querySelectorAll(".streamtrace-explore:not([data-state])")) {
    root.dataset.state = "opening";
    explore(root);
  }
})();
