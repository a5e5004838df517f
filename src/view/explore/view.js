// The view: what is chosen, and the parts that show it.

const N_LISTED = 8;
const CLOSE = 24; // tokens along a side where a pair of tokens is shown

class View {
  constructor(root, data) {
    Object.assign(this, { root, data, whole_: [0, data.n_tokens], sinks: new Set(data.sinks) });
    this.isPage = Boolean(root.closest(".explore-page"));
    const [head, query, key] = data.opening;
    const opened = data.traces[0].heads[head];
    const panes = data.traces.map((_, trace) => ({ trace, head: this.sameHead(opened, trace) }));
    this.state = { panes, active: 0, query, key, queries: this.whole_, keys: this.whole_, by: false, all: false };
    this.heads = new Heads(this);
    this.reading = new Reading(this);
    this.search = new Search(this);
    this.maps = [0, 1].map((index) => new AttentionMap(this, index));
    this.build();
    if (this.isPage) this.restore();
    this.draw();
    this.reading.reveal(this.state.by ? this.state.query : this.state.key, true);
    this.listen();
  }

  traceOf(pane = this.state.panes[this.state.active]) { return this.data.traces[pane.trace]; }
  headOf(pane = this.state.panes[this.state.active]) { return this.traceOf(pane).heads[pane.head]; }

  /** Returns the place of the head with another's layer and number in a trace; the first if there is none. */
  sameHead({ layer, head }, trace) {
    return Math.max(0, this.data.traces[trace].heads.findIndex((other) => other.layer === layer && other.head === head));
  }

  build() {
    this.status = element("p", { class: "status", role: "status", "aria-live": "polite" });
    this.pair = element("div", { class: "pair" });
    this.hint = element("p", { class: "caption hint" });
    this.list = element("ol", { class: "list" });
    this.listAbout = element("h5", {});
    this.mapsBox = element("div", { class: "maps" });
    this.modes = ["looks at", "is looked at by"].map((text, i) => button(text, () => this.set({ by: Boolean(i) })));
    this.scopes = ["this head", "all heads"].map((text, i) => button(text, () => this.set({ all: Boolean(i) })));
    const group = (label, buttons) => element("span", { class: "choice", role: "group", "aria-label": label }, ...buttons);
    const modes = element("div", { class: "modes" },
      group("What shades the text", this.modes), group("Heads that shade the text", this.scopes));
    const middle = element("div", { class: "middle" }, this.mapsBox, legend(this), this.status, this.pair, this.hint);
    const side = element("div", { class: "side" },
      this.search.root, modes, this.reading.about, this.reading.root, this.listAbout, this.list);
    this.root.replaceChildren(...introduction(this), toolbar(this), keysList(this),
      element("div", { class: "columns" }, this.heads.root, middle, side));
  }

  listen() {
    const keyboard = this.isPage ? document : this.root;
    keyboard.addEventListener("keydown", (event) => this.pressed(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    if (this.isPage) addEventListener("hashchange", () => (this.restore(), this.draw()));
    new ResizeObserver(() => this.root.clientWidth === this.width || this.draw()).observe(this.root);
  }

  restore() { this.settle(stateOf(location.hash, this)); }

  /** Takes changes over, so that they make sense. `follow` moves the picture, if necessary, to the cursor. */
  settle({ follow = false, ...changes }) {
    const { data } = this, inside = (token) => Math.min(Math.max(token, 0), data.n_tokens - 1);
    Object.assign(this.state, changes);
    const { state } = this;
    [state.query, state.key] = [inside(state.query), inside(state.key)];
    state.active = Math.min(state.active, state.panes.length - 1);
    if (!follow) return;
    const moved = ([start, end], token) =>
      (start <= token && token < end ? [start, end] : fitted(token - (end - start) / 2, end - start, data.n_tokens));
    [state.queries, state.keys] = [moved(state.queries, state.query), moved(state.keys, state.key)];
  }

  set(changes) {
    this.settle(changes);
    this.draw();
    if (!this.isPage) return;
    clearTimeout(this.later);
    this.later = setTimeout(() => history.replaceState(null, "", `#${addressOf(this)}`), 100);
  }

  draw() {
    const theme = themeOf(this.root), { state } = this, shown = this.maps.slice(0, state.panes.length);
    this.width = this.root.clientWidth;
    this.root.classList.toggle("two", state.panes.length > 1);
    for (const name of ["ink", "paper", "after", "hatch", "query", "key"]) {
      this.root.style.setProperty(`--${name}`, theme[name]);
    }
    this.root.style.setProperty("--scale", theme.scale.join(", "));
    if (this.mapsBox.childElementCount !== shown.length) this.mapsBox.replaceChildren(...shown.map((map) => map.root));
    shown.forEach((map) => map.draw(theme));
    this.heads.draw(theme);
    this.reading.draw(theme);
    this.cut.hidden = this.traceOf().heads.every(({ shown, floors }) => shown[0] >= 1 && !floors[1]);
    this.modes.forEach((made, i) => made.setAttribute("aria-pressed", state.by === Boolean(i)));
    this.scopes.forEach((made, i) => made.setAttribute("aria-pressed", state.all === Boolean(i)));
    this.describe(state.query, state.key);
    this.listStrongest();
  }

  /** Says what a query gives a key in a map, as far as the trace knows. */
  value(query, key, pane) {
    const trace = this.traceOf(pane), head = this.headOf(pane);
    const { exact, queries, keys } = pairOf(trace, query, key, this.data.n_tokens);
    if (keys[0] >= queries[1]) return "the key comes after the query";
    if (head.window && keys[1] + head.window <= queries[0] + 1) return "outside the query's window";
    const bits = attention(trace, head, query, key);
    if (bits < 0) return bits === CUT ? "pruned, or kept but not in this view" : "pruned";
    return `${percent(MASSES[bits])}${exact ? "" : " (mean of a block)"}`;
  }

  /** Says what a query gives a key in the active map, or in both. */
  sentence(query, key, pane = this.state.panes[this.state.active]) {
    const { words, n_tokens } = this.data, { panes } = this.state;
    const { exact, queries, keys } = pairOf(this.traceOf(pane), query, key, n_tokens);
    const quoted = (token) => ` “${visible(words([token, token + 1]))}”`;
    const pair = exact
      ? `Query ${number(query)}${quoted(query)} on key ${number(key)}${quoted(key)}`
      : `${several("Query", "Queries", queries)} on ${several("key", "keys", keys)}`;
    const name = (shown) => (panes.length > 1 ? `${this.nameOf(shown)} ` : "");
    return `${pair}: ${panes.map((shown) => `${name(shown)}${this.value(query, key, shown)}`).join("; ")}`;
  }

  /** Names a map's head, and its trace if there are two. */
  nameOf(pane) {
    const name = headName(this.headOf(pane));
    return this.data.traces.length > 1 ? `${name} · ${this.traceOf(pane).name}` : name;
  }

  describe(query, key, pane) {
    const { data } = this, trace = this.traceOf(pane), { exact, queries, keys } = pairOf(trace, query, key, data.n_tokens);
    this.status.textContent = this.sentence(query, key, pane);
    const line = (name, tokens, kind) => element("p", { class: "passage" },
      element("b", { class: kind }, name), " ", ...passage(data, tokens, 10, kind));
    this.pair.replaceChildren(line("Query", queries, "query"), line("Key", keys, "key"));
    this.hint.replaceChildren();
    if (exact) return;
    const focus = `--focus ${rangeOf(queries)}`;
    this.hint.append("These queries were recorded as a block. To record them key by key, trace with ",
      element("code", {}, focus), " ", button("Copy", () => copy(this, focus)));
  }

  /** Shows a pair for as long as the mouse is over it. */
  preview(pair, map) {
    const [query, key] = pair ?? [this.state.query, this.state.key];
    this.describe(query, key, map?.pane);
  }

  /** Lists the strongest partners of the chosen token. */
  listStrongest() {
    const { state, data } = this, { by, query, key } = state, trace = this.traceOf(), head = this.headOf();
    const found = by ? lookedAtBy(trace, head, key, data.n_tokens) : looksAt(trace, head, query, data.n_tokens);
    const about = by ? `who looks at token ${number(key)} most` : `where token ${number(query)} looks most`;
    this.listAbout.textContent = `${headName(head)}: ${about}`;
    this.list.replaceChildren(...found.slice(0, N_LISTED).map(([start, end, bits]) => {
      const pair = by ? [start, key] : [query, start], sink = !by && this.sinks.has(start) ? " (a sink)" : "";
      const made = button(element("b", {}, percent(MASSES[bits])), () => this.goTo(...pair), { title: "Go there and zoom" });
      const place = ` ${by ? "from" : "on"} ${span([start, end])}${sink}: `;
      made.append(place, ...passage(data, [start, end], 2, by ? "query" : "key"));
      return element("li", {}, made);
    }));
  }

  /** Returns the strongest key of a query that is no sink. */
  strongestKey(query) {
    const found = looksAt(this.traceOf(), this.headOf(), query, this.data.n_tokens);
    return (found.find(([start]) => !this.sinks.has(start)) ?? found[0] ?? [query])[0];
  }

  /** Chooses a token as the query or the key. The side that shades the text takes its strongest partner along. */
  choose(token, isKey) {
    const { by } = this.state;
    if (isKey) {
      const query = by ? lookedAtBy(this.traceOf(), this.headOf(), token, this.data.n_tokens)[0]?.[0] : undefined;
      this.set({ key: token, query: query ?? this.state.query, follow: true });
    } else this.set({ query: token, key: by ? this.state.key : this.strongestKey(token), follow: true });
  }

  /** Moves the cursor to a pair and zooms there. */
  goTo(query, key) {
    const { n_tokens } = this.data, trace = this.traceOf(), { exact } = pairOf(trace, query, key, n_tokens);
    const around = (token, length) => fitted(token - length / 2, length, n_tokens);
    const [start, end] = trace.focus, rows = Math.min(end - start, CLOSE);
    const queries = exact ? fitted(Math.min(Math.max(query - rows / 2, start), end - rows), rows, n_tokens)
      : around(query - (query % trace.row) + trace.row / 2, 5 * trace.row);
    const keys = exact ? around(key, CLOSE) : around(key - (key % trace.column) + trace.column / 2, 17 * trace.column);
    this.set({ query, key, queries, keys });
    this.reading.reveal(this.state.by ? query : key, true);
  }

  toOutput() {
    const query = this.data.n_tokens - 1;
    this.state.by = false;
    this.goTo(query, this.strongestKey(query));
  }

  /** Goes to the query's next weaker key (`by` 1) or stronger one (−1). */
  walk(by) {
    const { query, key } = this.state, found = looksAt(this.traceOf(), this.headOf(), query, this.data.n_tokens);
    const at = found.findIndex(([start, end]) => start <= key && key < end), next = found[at < 0 ? 0 : at + by];
    if (!next) return;
    this.set({ key: next[0], follow: true });
    this.reading.reveal(next[0]);
  }

  /** Shows `factor` times as many tokens around the cursor. */
  zoom(factor) {
    const around = ([start, end], token) => {
      const length = (end - start) * factor, at = Math.min(Math.max(token, start), end - 1) + 0.5;
      return fitted(at - length * ((at - start) / (end - start)), length, this.data.n_tokens);
    };
    const { queries, keys, query, key } = this.state;
    this.set({ queries: around(queries, query), keys: around(keys, key), follow: factor < 1 });
  }

  whole() { this.set({ queries: this.whole_, keys: this.whole_ }); }

  activate(index) { if (index !== this.state.active) this.set({ active: index }); }

  /** Opens a head, in a map of its own if there is none at that place yet. */
  open(head, index = this.state.active) {
    const { panes } = this.state, trace = panes[index]?.trace ?? panes[0].trace, opened = [...panes];
    opened[index] = { trace, head };
    this.set({ panes: opened, active: index });
  }

  /** Opens, beside the first head, the one that gives the chosen pair most after it. */
  openSecond() {
    const { panes, query, key } = this.state, trace = this.traceOf(panes[0]);
    const ranked = trace.heads.map((head, i) => [attention(trace, head, query, key), i]);
    const [best] = ranked.filter(([, i]) => i !== panes[0].head).sort((a, b) => b[0] - a[0]);
    if (best) this.open(best[1], 1);
  }

  closeSecond() { this.set({ panes: this.state.panes.slice(0, 1), active: 0 }); }

  say(text) { this.said.textContent = text; }

  toggleHelp() { this.help.hidden = !this.help.hidden; }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input, select, textarea")) return;
    const actions = {
      "/": () => this.search.field.focus(), n: () => this.search.go(1), N: () => this.search.go(-1),
      "[": () => this.walk(-1), "]": () => this.walk(1), "?": () => this.toggleHelp(),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    actions[event.key]();
  }
}

async function explore(root) {
  try {
    new View(root, await decoded(root));
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
