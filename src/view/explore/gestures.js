// What mouse and keyboard do in a map.

/** Listens to a map: hovering previews, a click pins, a drag zooms, with shift it moves the picture; the wheel zooms. */
function gestures(map) {
  const { canvas, view } = map;
  let from = null; // where a drag began

  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left - LEFT, event.clientY - box.top - TOP];
  };
  const inside = ([x, y]) => x >= 0 && y >= 0 && x < map.size && y < map.size;
  const clamped = ([x, y]) => [x, y].map((at) => Math.min(Math.max(at, 0), map.size));

  const stop = () => {
    const ended = from;
    from = map.box = null;
    return ended;
  };

  canvas.addEventListener("pointerdown", (event) => {
    const at = point(event);
    if (event.button || !inside(at)) return;
    from = { at, shift: event.shiftKey, queries: view.state.queries, keys: view.state.keys, moved: false };
    if (event.isTrusted) canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const at = point(event);
    if (!from) return hover(map, inside(at) ? at : null);
    from.moved ||= Math.hypot(at[0] - from.at[0], at[1] - from.at[1]) > 4;
    if (!from.moved) return;
    if (from.shift) return pan(map, from, at);
    const [[x, y], [x2, y2]] = [from.at, clamped(at)];
    map.box = { x: Math.min(x, x2), y: Math.min(y, y2), width: Math.abs(x2 - x), height: Math.abs(y2 - y) };
    map.overlay();
  });
  canvas.addEventListener("pointerup", (event) => {
    const { box } = map, ended = stop();
    if (!ended) return;
    if (!ended.moved) return pin(map, point(event));
    if (box && !ended.shift) boxed(map, box);
  });
  canvas.addEventListener("pointercancel", () => (stop(), map.overlay()));
  canvas.addEventListener("pointerleave", () => from || hover(map, null));
  canvas.addEventListener("dblclick", (event) => inside(point(event)) && zoomAt(map, 1 / 4, point(event)));
  canvas.addEventListener("wheel", (event) => {
    // In a notebook or a report the wheel scrolls, unless the map was clicked.
    const zooms = view.isPage || event.ctrlKey || document.activeElement === canvas;
    if (!zooms || !inside(point(event))) return;
    event.preventDefault();
    zoomAt(map, event.deltaY > 0 ? 1.25 : 0.8, point(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => pressed(map, event));
}

/** Returns the pair at a point: the strongest of those that its pixel shows. */
function pairAt(map, [x, y]) {
  const { queries, keys } = map.sides();
  const cell = (side, at) => side.tokens(Math.min(side.n - 1, Math.max(0, Math.floor((at / map.size) * side.n))));
  const [rows, columns] = [cell(queries, y), cell(keys, x)];
  return strongestIn(map.trace, map.kept, rows, columns) ?? [rows[1] - 1, columns[0]];
}

function hover(map, at) {
  map.hovered = at && pairAt(map, at);
  map.overlay();
  map.view.preview(map.hovered, map);
}

function pin(map, at) {
  const [query, key] = pairAt(map, clampedTo(map, at));
  map.hovered = null;
  map.view.set({ query, key, active: map.index });
}

const clampedTo = (map, at) => at.map((value) => Math.min(Math.max(value, 0), map.size - 1));

/** Returns a range of `length` tokens from `start` on, moved and cut so that it lies in the prompt. */
function fitted(start, length, nTokens) {
  const n = Math.min(Math.max(Math.round(length), Math.min(CLOSEST, nTokens)), nTokens);
  const first = Math.min(Math.max(Math.round(start), 0), nTokens - n);
  return [first, first + n];
}

/** Shows `factor` times as many tokens; what lies at a point stays there. */
function zoomAt(map, factor, [x, y]) {
  const { queries, keys } = map.view.state, n = map.view.data.n_tokens;
  const around = ([start, end], at) => {
    const share = at / map.size, token = start + share * (end - start), length = (end - start) * factor;
    return fitted(token - share * length, length, n);
  };
  map.view.set({ queries: around(queries, y), keys: around(keys, x) });
}

/** Shows what a box holds. */
function boxed(map, { x, y, width, height }) {
  const { queries, keys } = map.view.state, n = map.view.data.n_tokens;
  const part = ([start, end], at, size) => {
    const scale = (end - start) / map.size;
    return fitted(Math.floor(start + at * scale), Math.max(1, size * scale), n);
  };
  map.view.set({ queries: part(queries, y, height), keys: part(keys, x, width) });
}

/** Moves the picture with the mouse. */
function pan(map, from, [x, y]) {
  const moved = ([start, end], by) =>
    fitted(start - (by / map.size) * (end - start), end - start, map.view.data.n_tokens);
  map.view.set({ queries: moved(from.queries, y - from.at[1]), keys: moved(from.keys, x - from.at[0]) });
}

/** Moves the cursor by cells of the picture, or by blocks where these are larger. */
function step(map, down, right) {
  const { view, trace } = map, { query, key } = view.state, { queries, keys } = map.sides();
  const pair = pairOf(trace, query, key, view.data.n_tokens);
  const moved = (side, [start, end], by) => {
    const cell = (side.end - side.start) / side.n, length = end - start;
    const size = Math.max(length, Math.ceil(cell));
    return by ? Math.min(Math.max(by > 0 ? start + size : start - size, 0), view.data.n_tokens - 1) : null;
  };
  view.set({
    query: moved(queries, pair.queries, down) ?? query, key: moved(keys, pair.keys, right) ?? key, follow: true,
  });
}

function pressed(map, event) {
  const { view } = map;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    ArrowLeft: () => step(map, 0, -1), ArrowRight: () => step(map, 0, 1),
    ArrowUp: () => step(map, -1, 0), ArrowDown: () => step(map, 1, 0),
    "+": () => view.zoom(1 / 4), "=": () => view.zoom(1 / 4), Enter: () => view.zoom(1 / 4), "-": () => view.zoom(4),
    Home: () => view.whole(),
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  view.activate(map.index);
  actions[event.key]();
}
