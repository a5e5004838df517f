// What leaves the view: its state as an address, commands that draw the same, a picture.

/** Writes a state as `head=3.0&q=8152&k=4839&zoom=8121..8153,4824..4856`. */
function addressOf({ data, state }) {
  const whole = (range) => range[0] === 0 && range[1] === data.n_tokens;
  const range = ([start, end]) => `${start}..${end}`;
  const head = ({ trace, head }) => {
    const { layer, head: number } = data.traces[trace].heads[head];
    return `${layer}.${number}`;
  };
  const parts = [`head=${head(state.panes[0])}`, `q=${state.query}`, `k=${state.key}`];
  if (!whole(state.queries) || !whole(state.keys)) parts.push(`zoom=${range(state.queries)},${range(state.keys)}`);
  if (state.panes[1]) parts.push(`beside=${head(state.panes[1])}`);
  if (state.by) parts.push("by=1");
  if (state.all) parts.push("all=1");
  return parts.join("&");
}

/** Reads a state from an address; what is missing, or makes no sense in this trace, is left out. */
function stateOf(address, { data }) {
  const read = new URLSearchParams(address.replace(/^#/, "")), n = data.n_tokens, state = {};
  const token = (text) => (/^\d+$/.test(text ?? "") && +text < n ? +text : undefined);
  const head = (text, trace) => {
    const at = data.traces[trace].heads.findIndex(({ layer, head }) => `${layer}.${head}` === text);
    return at < 0 ? undefined : { trace, head: at };
  };
  const ranges = [...(read.get("zoom") ?? "").matchAll(/(\d+)\.\.(\d+)/g)].map(([, start, end]) => [+start, +end]);
  const makesSense = ([start, end]) => start < end && end <= n;
  const first = head(read.get("head"), 0), second = head(read.get("beside"), data.traces.length - 1);
  if (first) state.panes = second ? [first, second] : [first];
  if (token(read.get("q")) !== undefined) state.query = token(read.get("q"));
  if (token(read.get("k")) !== undefined) state.key = token(read.get("k"));
  if (ranges.length === 2 && ranges.every(makesSense)) [state.queries, state.keys] = ranges;
  if ([...read].length) Object.assign(state, { by: read.get("by") === "1", all: read.get("all") === "1" });
  return state;
}

const rangeOf = ([start, end]) => `${start}..${end}`;

/** Quotes a name for a shell, if it must be. */
const shellQuoted = (name) => (/^[\w./+-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`);

/** Returns the command that draws the active map. */
function commandOf(view) {
  const { name } = view.traceOf(), { layer, head } = view.headOf(), { queries, keys } = view.state;
  return `streamtrace map ${shellQuoted(name)} --layer ${layer} --head ${head} `
    + `--queries ${rangeOf(queries)} --keys ${rangeOf(keys)} --out map.svg`;
}

/** Returns the Rust that draws the active map. */
function rustOf(view) {
  const { layer, head } = view.headOf(), { queries, keys } = view.state;
  return `trace.attention_map(${layer}, ${head})?.queries(${rangeOf(queries)})?.keys(${rangeOf(keys)})?`;
}

/** Copies a text and says so; where the browser forbids it, shows the text, selected. */
async function copy(view, text) {
  view.copied.value = text;
  view.copied.hidden = false;
  view.copied.select();
  try {
    await navigator.clipboard.writeText(text);
    view.say("Copied.");
  } catch {
    view.say(document.execCommand("copy") ? "Copied." : "Copy the marked text.");
  }
}

/** Saves the active map, with its title and its cursor, as a PNG. */
function savePicture(view) {
  const map = view.maps[view.state.active], { cellsCanvas, canvas, theme } = map;
  const ratio = devicePixelRatio || 1, head = 30 * ratio;
  const whole = element("canvas", { width: cellsCanvas.width, height: cellsCanvas.height + head });
  const context = whole.getContext("2d");
  context.fillStyle = theme.paper;
  context.fillRect(0, 0, whole.width, whole.height);
  context.drawImage(cellsCanvas, 0, head);
  context.drawImage(canvas, 0, head);
  context.scale(ratio, ratio);
  context.fillStyle = theme.ink;
  context.font = `bold ${FONT}`;
  const title = `${map.title.textContent} · ${view.sentence(view.state.query, view.state.key)}`;
  context.fillText(title, 8, 18, whole.width / ratio - 16);
  whole.toBlob((blob) => {
    const { layer, head: number } = view.headOf(), link = element("a", { href: URL.createObjectURL(blob) });
    link.download = `L${layer}H${number}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    view.say(`Saved ${link.download}.`);
  });
}
