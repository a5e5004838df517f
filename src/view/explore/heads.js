// All heads: as small pictures, and ranked by what they give the chosen pair.

const MAX_RANKED = 100;

class Heads {
  constructor(view) {
    this.view = view;
    this.grid = element("div", {
      class: "grid", role: "group", onkeydown: (event) => this.walked(event),
      "aria-label": "Heads. Rows are layers, columns are heads; arrow keys move, Enter opens, Shift and Enter opens beside.",
    });
    this.about = element("h5", {});
    this.ranking = element("ol", { class: "ranking" });
    this.root = element("nav", { class: "heads", "aria-label": "Heads" },
      element("div", {}, element("h5", {}, "Heads (row: layer)"), this.grid),
      element("div", { class: "ranked" }, this.about, this.ranking));
  }

  /** Lays out the small pictures of a trace's heads. */
  layOut(trace) {
    const { n_heads, heads } = trace, size = Math.min(44, Math.max(11, Math.floor(172 / n_heads) - 6));
    this.buttons = heads.map((head, index) => {
      const thumb = element("canvas", { width: size, height: size, "aria-hidden": true });
      const open = (event) => this.view.open(index, event.shiftKey ? 1 : undefined);
      const label = `layer ${head.layer}, head ${head.head}`;
      const [blocks, mass] = head.shown, part = blocks < 1 ? `: shows ${percent(mass)} of its attention` : "";
      return button(thumb, open, { tabindex: -1, "aria-label": label, title: `${headName(head)}${part}` });
    });
    const name = (text) => element("span", { "aria-hidden": true }, text);
    const names = Array.from({ length: n_heads }, (_, i) => name(`${i}`));
    const rows = heads.flatMap(({ layer }, i) => (i % n_heads ? [this.buttons[i]] : [name(`L${layer}`), this.buttons[i]]));
    this.grid.style.setProperty("--heads", n_heads);
    this.grid.replaceChildren(element("span"), ...names, ...rows);
    this.trace = trace;
  }

  paint(theme) {
    const whole = [0, this.view.data.n_tokens];
    this.buttons.forEach((made, index) => {
      const head = this.trace.heads[index], thumb = made.firstChild, side = cells(whole, thumb.width);
      const levels = highest(this.trace, head, side, side);
      thumb.getContext("2d").putImageData(picture(levels, side, side, head.window, theme, thumb.width), 0, 0);
    });
    this.painted = theme;
  }

  draw(theme) {
    const { state, data } = this.view, { trace, head } = state.panes[state.active];
    if (this.trace !== data.traces[trace]) {
      this.layOut(data.traces[trace]);
      this.painted = null;
    }
    if (this.painted !== theme) this.paint(theme);
    this.buttons.forEach((made, i) => {
      made.setAttribute("aria-pressed", i === head);
      made.tabIndex = i === head ? 0 : -1;
    });
    this.rank();
  }

  /** Ranks the heads by what the chosen query gives the chosen key. */
  rank() {
    const { state, data } = this.view, { query, key } = state, { trace } = this;
    const { keys, queries, exact } = pairOf(trace, query, key, data.n_tokens);
    this.about.textContent = exact
      ? `Ranked: token ${span(queries)} on token ${span(keys)}` : `Ranked: tokens ${span(queries)} on ${span(keys)}, means`;
    const ranked = trace.heads.map((head, index) => [attention(trace, head, query, key), index]);
    ranked.sort((a, b) => b[0] - a[0] || a[1] - b[1]);
    const { head } = state.panes[state.active];
    this.ranking.replaceChildren(...ranked.slice(0, MAX_RANKED).map(([bits, index]) => {
      const mass = MASSES[bits] ?? 0, value = bits >= 0 ? percent(mass) : bits === CUT ? "not shown" : "pruned";
      const bar = element("i", { "aria-hidden": true });
      bar.style.width = `${100 * mass}%`;
      const name = headName(trace.heads[index]);
      const made = button(element("span", {}, name), (event) => this.view.open(index, event.shiftKey ? 1 : undefined),
        { "aria-pressed": index === head, title: `${name}: ${value}` });
      made.append(element("span", { class: "track" }, bar), element("span", { class: "value" }, value));
      return element("li", {}, made);
    }));
  }

  /** Moves among the heads with arrow keys: Tab reaches one head at a time. */
  walked(event) {
    const { n_heads } = this.trace, at = this.buttons.indexOf(event.target);
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -n_heads, ArrowDown: n_heads };
    const next = this.buttons[at + steps[event.key]];
    if (!next) return;
    event.preventDefault();
    this.buttons.forEach((made) => (made.tabIndex = made === next ? 0 : -1));
    next.focus();
  }
}
