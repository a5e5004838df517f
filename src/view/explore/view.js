// The interactive view of a trace: all heads, one head's map, its blocks, its tokens with their text.

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

/** Returns the text of tokens, marked, with some of the text around it; long texts are cut. */
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
    "aria-label": "Attention map. Arrow keys move the cursor, plus and minus zoom, "
      + "Home shows the whole prompt.",
    onkeydown: pressed, onclick: chosen, ondblclick: () => zoom(1 / 4),
  });
  const button = (text, onclick) => element("button", { type: "button", onclick }, text);
  const tools = element("div", { class: "tools" },
    button("Zoom in", () => zoom(1 / 4)), button("Zoom out", () => zoom(4)),
    button("Whole prompt", () => show(whole, whole)),
    button("What the output read", () => (move(trace.n_tokens - 1, state.key), show(trace.focus, whole))));
  const caption = element("p", { class: "caption" });
  const query = element("p", { class: "passage" });
  const key = element("p", { class: "passage" });
  const most = element("ol", {});
  const panel = element("div", { class: "panel" },
    status, element("h5", {}, "Query"), query, element("h5", {}, "Key"), key,
    element("h5", {}, "Where this query looks most"), most);
  const buttons = trace.heads.map(headButton);
  const name = (text) => element("span", { "aria-hidden": true }, text);
  const names = (what, n) => Array.from({ length: n }, (_, i) => name(i ? `${i}` : `${what} 0`));
  const rows = trace.heads.flatMap(({ layer }, i) => {
    return i % trace.n_heads ? [buttons[i]] : [name(i ? `${layer}` : `layer ${layer}`), buttons[i]];
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
      const { blocks, window } = trace.heads[index];
      const thumb = made.firstChild, side = cells(whole, thumb.width);
      thumb.getContext("2d").drawImage(picture(highest(blocks, side, side), side, side, window, theme), 0, 0);
    });
  }

  function legend() {
    const name = (color, text) => element("span", { class: `swatch ${color}` }, text);
    const scale = element("canvas", { class: "scale", width: 120, height: 10 });
    const [low, high] = ["0.01 %", "100 %"].map((end) => element("span", {}, end));
    return element("p", { class: "legend" }, low, scale, high,
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

  /** Moves among the heads with arrow keys: Tab reaches one head at a time. */
  function walked(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -trace.n_heads, ArrowDown: trace.n_heads };
    const step = steps[event.key];
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
    const query = inside(queries, state.query), key = inside(keys, state.key);
    Object.assign(state, { queries, keys, query, key });
    draw();
  }

  function move(query, key) {
    const inside = (token) => Math.min(Math.max(token, 0), trace.n_tokens - 1);
    [state.query, state.key] = [inside(query), inside(key)];
  }

  /** Shows `factor` times as many tokens around the cursor. */
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
      ArrowLeft: () => to(q, k - 1), ArrowRight: () => to(q, k + 1),
      ArrowUp: () => to(q - 1, k), ArrowDown: () => to(q + 1, k),
      "+": () => zoom(1 / 4), "=": () => zoom(1 / 4), Enter: () => zoom(1 / 4), "-": () => zoom(4),
      Home: () => show(whole, whole),
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    actions[event.key]();
  }

  function sides() {
    return { queries: cells(state.queries, PLOT), keys: cells(state.keys, PLOT) };
  }

  /** Returns single keys if all queries lie in the focus, otherwise blocks. */
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
    const measure = exact
      ? "Attention of a query token on a key token"
      : "Attention mass on a key block, mean over a query block";
    const [height, width] = [queries, keys].map((side) => Math.ceil((side.end - side.start) / side.n));
    const largest = height > 1 || width > 1 ? `, the largest of ${height} × ${width} tokens` : "";
    const floor = exact ? key_floor : block_floor;
    return `${measure}${largest}.${floor > 0 ? ` Below ${percent(floor)} is left out.` : ""}`;
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

  /** Writes the texts of tokens if there is room, otherwise round positions. */
  function labels(side, write) {
    const size = PLOT / side.n, each = Math.ceil((side.end - side.start) / 8);
    if (size >= 11 && side.n === side.end - side.start) {
      for (let i = 0; i < side.n; i++) {
        const token = side.start + i;
        write(visible(trace.words([token, token + 1])).slice(0, 16), (i + 0.5) * size);
      }
      return;
    }
    const steps = Array.from({ length: 9 }, (_, e) => [1, 2, 5].map((m) => m * 10 ** e)).flat();
    const step = steps.find((step) => step >= each);
    for (let token = Math.ceil(side.start / step) * step; token < side.end; token += step) {
      write(number(token), ((token - side.start + 0.5) / (side.end - side.start)) * PLOT);
    }
  }

  /** Describes the cell under the cursor, and the keys that its query attends to most. */
  function describe(levels, queries, keys, kept) {
    const [y, x] = [queries.of(state.query), keys.of(state.key)], level = levels[y * keys.n + x];
    const at = [queries.tokens(y), keys.tokens(x)];
    const shownMass = level < 0 ? "pruned, or too weak to show" : percent(mass(level));
    const what = seen(...at, window()) ? shownMass : "no query here sees this key";
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

  /** Returns the `n` kept columns of a query's row with the most mass. */
  function strongest(kept, token, n) {
    const row = Math.floor((token - kept.first) / kept.rowSize), found = [];
    for (let i = kept.starts[row]; i < kept.starts[row + 1]; i++) {
      found.push([kept.columns[i], kept.levels[i]]);
    }
    return found.sort((a, b) => b[1] - a[1]).slice(0, n);
  }

  /** Moves the range of keys, if necessary, so that it holds the cursor. */
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
    root.append(element("p", {}, `This browser cannot show the trace: ${error.message}`));
    throw error;
  }
}

for (const root of document.querySelectorAll(".streamtrace-explore:not([data-state])")) {
  root.dataset.state = "opening";
  explore(root);
}
