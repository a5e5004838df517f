// One head's map: rows are queries, columns are keys. What was kept lies on one canvas, cursors on another above it.

const LEFT = 92, TOP = 62, RIGHT = 38; // pixels of the map's margins
const CLOSEST = 8; // the smallest number of tokens along a side
const SMALL = "11px system-ui, Helvetica, Arial, sans-serif";
const FONT = "12px system-ui, Helvetica, Arial, sans-serif";

class AttentionMap {
  constructor(view, index) {
    Object.assign(this, { view, index, hovered: null, box: null });
    this.title = element("h4", {});
    this.share = element("span", { class: "share" });
    this.head = element("select", { "aria-label": "Head of this map", onchange: () => view.open(+this.head.value, index) });
    this.close = button("×", () => view.closeSecond(), { title: "Close this map", "aria-label": "Close this map" });
    this.cellsCanvas = element("canvas", { "aria-hidden": true });
    this.canvas = element("canvas", {
      tabindex: 0, role: "application", "aria-roledescription": "attention map",
      "aria-label": "Attention map. Arrow keys move the cursor, plus and minus zoom, brackets go to the next and the "
        + "previous strong key, Home shows the whole prompt, question mark lists all keys.",
    });
    this.caption = element("p", { class: "caption" });
    this.plot = element("div", { class: "plot" }, this.cellsCanvas, this.canvas);
    const header = element("header", {}, this.title, this.head, this.share, this.close);
    const activate = () => view.activate(index);
    this.root = element("figure", { class: "map", onpointerdown: activate }, header, this.plot, this.caption);
    gestures(this);
  }

  get pane() { return this.view.state.panes[this.index]; }
  get trace() { return this.view.data.traces[this.pane.trace]; }
  get kept() { return this.trace.heads[this.pane.head]; }

  /** The sides of the picture. A row recorded key by key is a row of it where there is a pixel for each. */
  sides() {
    const { queries, keys } = this.view.state;
    return { queries: cells(queries, this.size), keys: cells(keys, this.size) };
  }

  /** Whether all rows, or none, are drawn key by key: 1, 0, or a half for some. */
  get single() {
    const { queries } = this.sides(), { focus } = this.trace;
    if (queries.n < queries.end - queries.start || queries.end <= focus[0] || queries.start >= focus[1]) return 0;
    return focus[0] <= queries.start && queries.end <= focus[1] ? 1 : 0.5;
  }

  draw(theme) {
    const { view, trace, kept } = this, ratio = devicePixelRatio || 1;
    this.size = Math.max(160, Math.round(this.plot.clientWidth || 560) - LEFT - RIGHT);
    this.theme = theme;
    const { queries, keys } = this.sides();
    const levels = highest(trace, kept, queries, keys), size = Math.round(this.size * ratio);
    const context = this.prepared(this.cellsCanvas, ratio);
    this.plot.style.height = `${TOP + this.size + 4}px`;
    context.putImageData(picture(levels, queries, keys, kept.window, theme, size, ratio), LEFT * ratio, TOP * ratio);
    this.grid(context, queries, keys);
    this.labels(context, queries, keys);
    this.values(context, levels, queries, keys);
    this.name();
    this.caption.textContent = this.captionOf(queries, keys);
    this.overlay();
    this.root.classList.toggle("active", view.state.panes.length > 1 && view.state.active === this.index);
  }

  prepared(canvas, ratio = devicePixelRatio || 1) {
    const [width, height] = [LEFT + this.size + RIGHT, TOP + this.size + 4];
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    [canvas.style.width, canvas.style.height] = [`${width}px`, `${height}px`];
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.font = FONT;
    context.textBaseline = "middle";
    return context;
  }

  name() {
    const { view, kept, trace, index } = this, { panes } = view.state;
    this.title.textContent = view.nameOf(this.pane);
    const [blocks, mass] = kept.shown;
    this.share.textContent = blocks < 1
      ? `shows the strongest ${percent(blocks)} of its kept blocks (${percent(mass)} of the attention)` : "";
    this.close.hidden = index === 0;
    this.head.hidden = panes.length < 2;
    if (this.head.dataset.trace !== String(this.pane.trace)) {
      this.head.replaceChildren(...trace.heads.map((head, i) => element("option", { value: i }, headName(head))));
      this.head.dataset.trace = this.pane.trace;
    }
    this.head.value = this.pane.head;
  }

  captionOf(queries, keys) {
    const [height, width] = [queries, keys].map((side) => Math.ceil((side.end - side.start) / side.n));
    const { single, trace } = this, several = height > 1 || width > 1;
    const largest = several ? `; a pixel shows the largest of ${height} × ${width} tokens` : "";
    const measure = {
      1: "Attention of a query token (row) on a key token (column)",
      0: "Attention of a query block (row) on a key block (column), mean over its queries",
      0.5: `Rows ${span(trace.focus)} are drawn key by key, the others as means of blocks`,
    }[single];
    const floor = this.kept.floors[single === 1 ? 1 : 0];
    return `${measure}${largest}.${floor > 0 ? ` Below ${percent(floor)} is left out.` : ""}`;
  }

  /** The pixel, from the plot's edge, of a token's start. */
  at(side, token) { return ((token - side.start) / (side.end - side.start)) * this.size; }

  /** The sizes of the blocks along both sides, of the rows that are not drawn key by key; 1 where all are. */
  steps() { return this.single === 1 ? [1, 1] : [this.trace.row, this.trace.column]; }

  /** Outlines the blocks once they are large enough. */
  grid(context, queries, keys) {
    const steps = this.steps();
    context.fillStyle = this.theme.ink;
    context.globalAlpha = 0.09;
    [queries, keys].forEach((side, i) => {
      if ((steps[i] / (side.end - side.start)) * this.size < 7) return;
      for (let token = Math.ceil(side.start / steps[i]) * steps[i]; token < side.end; token += steps[i]) {
        const at = this.at(side, token);
        if (i) context.fillRect(LEFT + at, TOP, 1, this.size);
        else context.fillRect(LEFT, TOP + at, this.size, 1);
      }
    });
    context.globalAlpha = 1;
  }

  labels(context, queries, keys) {
    const [row, column] = this.steps();
    context.fillStyle = this.theme.ink;
    context.textAlign = "right";
    this.label(queries, row, (text, at) => context.fillText(fitting(context, text, LEFT - 10), LEFT - 6, TOP + at));
    context.textAlign = "left";
    this.label(keys, column, (text, at) => {
      context.save();
      context.translate(LEFT + at - 2, TOP - 6);
      context.rotate(-Math.PI / 3.2);
      context.fillText(fitting(context, text, TOP + 4), 0, 0);
      context.restore();
    });
  }

  /** Writes the texts of tokens or blocks where there is room, otherwise round positions. */
  label(side, step, write) {
    const length = side.end - side.start, { view } = this;
    if ((step / length) * this.size >= 11.5) {
      for (let start = side.start - (side.start % step); start < side.end; start += step) {
        const [from, to] = [Math.max(start, side.start), Math.min(start + step, side.end)];
        write(visible(view.data.words([from, to])), (this.at(side, from) + this.at(side, to)) / 2);
      }
      return;
    }
    const most = Math.max(2, this.size / 64);
    const rounds = Array.from({ length: 9 }, (_, e) => [1, 2, 5].map((m) => m * 10 ** e)).flat();
    const each = rounds.find((round) => round >= length / most);
    for (let token = Math.ceil(side.start / each) * each; token < side.end; token += each) {
      write(number(token), this.at(side, token + 0.5));
    }
  }

  /** Writes percentages into large cells that have at least 10 %. */
  values(context, levels, queries, keys) {
    const [row, column] = this.steps();
    const pixels = (side, step) => (step * this.size) / (side.end - side.start);
    const [height, width] = [pixels(queries, row), pixels(keys, column)];
    if (height < 14 || width < 15 || this.single === 0.5) return;
    context.textAlign = "center";
    context.font = SMALL;
    const starts = (side, step) => {
      const first = side.start - (side.start % step);
      return Array.from({ length: Math.ceil((side.end - first) / step) }, (_, i) => Math.max(first + i * step, side.start));
    };
    for (const query of starts(queries, row)) {
      for (const key of starts(keys, column)) {
        const bits = levels[queries.of(query) * keys.n + keys.of(key)], mass = MASSES[bits] ?? 0;
        if (mass < 0.1) continue;
        context.fillStyle = shaded(this.theme, bits)[1];
        const middle = (side, start, step) => this.at(side, (start + Math.min(start - (start % step) + step, side.end)) / 2);
        const text = mass < 1 ? Math.min(99, Math.round(100 * mass)) : 100;
        context.fillText(text, LEFT + middle(keys, key, column), TOP + middle(queries, query, row));
      }
    }
    context.fillStyle = this.theme.ink;
  }

  /** Draws the cursor, what the mouse is over, and the box that it draws. */
  overlay() {
    const context = this.prepared(this.canvas), { theme, view, size } = this, { query, key } = view.state;
    const rectangle = (pair) => {
      const { queries, keys } = this.sides();
      const { queries: q, keys: k } = pairOf(this.trace, pair[0], pair[1], view.data.n_tokens);
      const [x, y] = [this.at(keys, k[0]), this.at(queries, q[0])];
      return { x, y, width: this.at(keys, k[1]) - x, height: this.at(queries, q[1]) - y };
    };
    context.beginPath();
    context.rect(LEFT - 6, TOP - 6, size + 12, size + 10);
    context.clip();
    const cross = ({ x, y, width, height }, color, alpha) => {
      context.globalAlpha = alpha;
      context.fillStyle = color;
      context.fillRect(LEFT, TOP + y + height / 2 - 0.5, size, 1);
      context.fillRect(LEFT + x + width / 2 - 0.5, TOP, 1, size);
      context.globalAlpha = 1;
    };
    const frame = ({ x, y, width, height }, color, least) => {
      const [w, h] = [Math.max(width, least), Math.max(height, least)];
      for (const [style, lineWidth] of [[theme.paper, 4], [color, 2]]) {
        Object.assign(context, { strokeStyle: style, lineWidth });
        context.strokeRect(LEFT + x - (w - width) / 2, TOP + y - (h - height) / 2, w, h);
      }
    };
    const pinned = rectangle([query, key]);
    if (this.hovered) {
      const hovered = rectangle(this.hovered);
      cross(hovered, theme.query, 0.55);
      frame(hovered, theme.query, 5);
    } else cross(pinned, theme.key, 0.35);
    frame(pinned, theme.key, 9);
    if (this.box) frame(this.box, theme.query, 1);
  }
}
