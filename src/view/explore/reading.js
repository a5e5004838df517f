// The prompt as text in a scrolling column, shaded by what the chosen token looks at or is looked at by. Only the
// visible lines are in the page. A strip beside it shows the whole prompt.

const LINE = 21, STRIP = 26; // pixels

class Reading {
  constructor(view) {
    this.view = view;
    this.lines = element("div", { class: "lines" });
    this.tall = element("div", { class: "tall" }, this.lines);
    this.page = element("div", {
      class: "text", tabindex: 0, role: "application", "aria-roledescription": "prompt as text",
      "aria-label": "The prompt. Left and right choose the token before and after, up and down scroll.",
      onscroll: () => this.scrolled(), onkeydown: (event) => this.pressed(event),
      onpointerdown: ({ clientX, clientY }) => (this.down = [clientX, clientY]), onpointerup: (event) => this.chosen(event),
      onmouseover: (event) => this.hovered(event), onmouseleave: () => view.preview(null),
    }, this.tall);
    this.strip = element("canvas", {
      class: "strip", role: "img", "aria-label": "Where in the prompt the attention lies; click to scroll there",
      onpointerdown: (event) => this.stripped(event), onpointermove: (event) => event.buttons && this.stripped(event),
    });
    this.about = element("p", { class: "caption about" });
    this.ruler = element("span", { class: "ruler" }, "m".repeat(50));
    this.hits = []; // tokens that a search found, as ranges
    this.root = element("div", { class: "reading" }, this.page, this.strip, this.ruler);
  }

  /**
   * Breaks the prompt into lines: after line ends, and before the last blank at which a line still fits. Wide letters
   * count twice.
   */
  breakLines(columns) {
    const { starts, ends, text, n_tokens } = this.view.data, breaks = [0];
    const first = this.breaks?.[Math.round(this.page.scrollTop / LINE)];
    let used = 0, word = 0, ofWord = 0; // columns of the line; the token its last word starts with, and columns before it
    for (let token = 0; token < n_tokens; token++) {
      let width = 0, ended = false;
      for (let i = starts[token]; i < ends[token]; i++) {
        const code = text.charCodeAt(i);
        width += code > 0x2e80 ? 2 : 1;
        ended ||= code === 10;
      }
      if (text.charCodeAt(starts[token]) === 32) [word, ofWord] = [token, used];
      if (used && used + width > columns) {
        const whole = word > breaks.at(-1) && used - ofWord < columns / 2;
        breaks.push(whole ? word : token);
        used = whole ? used - ofWord : 0;
        ofWord = 0;
      }
      used += width;
      if (ended && token + 1 < n_tokens) {
        breaks.push(token + 1);
        used = 0;
      }
    }
    this.breaks = Uint32Array.from(breaks);
    this.columns = columns;
    this.tall.style.height = `${this.breaks.length * LINE + 8}px`;
    if (first) this.page.scrollTop = this.lineOf(first) * LINE;
  }

  lineOf(token) {
    let low = 0, high = this.breaks.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.breaks[middle] <= token) low = middle;
      else high = middle;
    }
    return low;
  }

  draw(theme) {
    const { view } = this, { state, data } = view;
    this.theme = theme;
    const columns = Math.max(16, Math.floor((this.page.clientWidth - 14) / (this.ruler.offsetWidth / 50)) - 1);
    if (columns !== this.columns) this.breakLines(columns);
    const trace = view.traceOf(), heads = state.all ? trace.heads : [view.headOf()];
    this.pair = pairOf(trace, state.query, state.key, data.n_tokens);
    this.shades = new Int16Array(data.n_tokens).fill(PRUNED);
    this.most = null;
    for (const head of heads) {
      shade(this.shades, state.by
        ? lookedAtBy(trace, head, state.key, data.n_tokens)
        : looksAt(trace, head, state.query, data.n_tokens));
    }
    this.about.textContent = this.aboutText(trace);
    this.scrolled();
  }

  aboutText(trace) {
    const { state, data } = this.view, { query, key } = state;
    const quoted = (token) => `“${visible(data.words([token, token + 1]))}”`;
    const where = state.all ? "any head (the largest)" : headName(this.view.headOf());
    const { exact, queries } = pairOf(trace, query, key, data.n_tokens);
    if (state.by) {
      const single = trace.focus[0] < trace.focus[1] ? ` but for tokens ${span(trace.focus)}` : "";
      return `Shade: how much each token looks at token ${number(key)} ${quoted(key)} in ${where}; `
        + `means of blocks${single}.`;
    }
    return exact
      ? `Shade: how much token ${number(query)} ${quoted(query)} looks at each token in ${where}.`
      : `Shade: how much tokens ${span(queries)} look at each block of ${trace.column} tokens in ${where}, in the mean.`;
  }

  /** Scrolls, if necessary, so that a token is seen; `middle` always puts its line into the middle. */
  reveal(token, middle = false) {
    const top = this.lineOf(token) * LINE, { scrollTop, clientHeight } = this.page;
    if (middle || top < scrollTop + LINE || top + 2 * LINE > scrollTop + clientHeight) {
      this.page.scrollTop = top - clientHeight / 2;
    }
  }

  /** Writes the lines that are seen. */
  scrolled() {
    if (!this.breaks) return;
    const { scrollTop, clientHeight } = this.page, n = this.breaks.length;
    const first = Math.max(0, Math.floor(scrollTop / LINE) - 3);
    const end = Math.min(n, Math.ceil((scrollTop + clientHeight) / LINE) + 3);
    this.lines.style.transform = `translateY(${first * LINE}px)`;
    const lines = [];
    for (let line = first; line < end; line++) {
      const made = element("div", { class: "line" });
      for (let token = this.breaks[line]; token < (this.breaks[line + 1] ?? this.view.data.n_tokens); token++) {
        made.append(this.token(token));
      }
      lines.push(made);
    }
    this.lines.replaceChildren(...lines);
    this.drawStrip();
  }

  token(token) {
    const { data } = this.view, bits = this.shades[token];
    const text = data.words([token, token + 1]), blank = /^\s*$/.test(text);
    const made = element("span", { "data-token": token }, blank && text ? visible(text) : text.replaceAll("\n", "⏎"));
    const { queries, keys, exact } = this.pair, inside = ([start, end]) => start <= token && token < end;
    const kind = [
      inside(queries) && (exact ? "query" : "of-query"), inside(keys) && (exact ? "key" : "of-key"), blank && "blank",
      this.hits.some(inside) && "hit",
    ].filter(Boolean);
    if (kind.length) made.className = kind.join(" ");
    if (bits >= 0) {
      [made.style.background, made.style.color] = shaded(this.theme, bits);
      made.title = `${number(token)}: ${percent(MASSES[bits])}`;
    } else made.title = number(token);
    return made;
  }

  /** Draws the whole prompt from top to bottom: the strongest token of each pixel, the choice, what was found. */
  drawStrip() {
    const ratio = devicePixelRatio || 1, height = Math.max(40, this.page.clientHeight), { strip, theme, view } = this;
    [strip.width, strip.height] = [STRIP * ratio, Math.round(height * ratio)];
    strip.style.height = `${height}px`;
    const context = strip.getContext("2d"), n = this.breaks.length, tall = Math.max(1, Math.ceil(height / n));
    context.scale(ratio, ratio);
    const y = (token) => Math.min(height - 1, Math.floor((this.lineOf(token) / n) * height));
    this.strongest(height).forEach((bits, at) => {
      if (!(MASSES[bits] >= 1e-3)) return;
      [context.fillStyle] = shaded(theme, bits);
      context.fillRect(5, at, STRIP - 10, Math.max(tall, MASSES[bits] > 0.05 ? 3 : 1));
    });
    const mark = (token, color, x, width) => {
      context.fillStyle = color;
      context.fillRect(x, y(token) - 1, width, 3);
    };
    this.hits.forEach(([start]) => mark(start, "#e0a100", STRIP - 5, 5));
    mark(view.state.query, theme.query, 0, 5);
    mark(view.state.key, theme.key, 0, 5);
    const { scrollTop, clientHeight } = this.page, scale = height / (n * LINE);
    context.strokeStyle = theme.ink;
    context.strokeRect(0.5, scrollTop * scale + 0.5, STRIP - 1, Math.max(4, Math.min(height, clientHeight * scale) - 1));
  }

  /** Returns the largest shade of the lines at each pixel of the strip. */
  strongest(height) {
    if (this.most?.length === height) return this.most;
    const { breaks, shades } = this, n = breaks.length, most = new Int16Array(height).fill(PRUNED);
    for (let line = 0; line < n; line++) {
      const at = Math.floor((line / n) * height), end = breaks[line + 1] ?? shades.length;
      for (let token = breaks[line]; token < end; token++) if (shades[token] > most[at]) most[at] = shades[token];
    }
    return (this.most = most);
  }

  stripped(event) {
    const box = this.strip.getBoundingClientRect(), share = (event.clientY - box.top) / box.height;
    this.page.scrollTop = share * this.breaks.length * LINE - this.page.clientHeight / 2;
  }

  hovered(event) {
    const token = event.target.dataset?.token;
    if (token === undefined) return;
    const { query, key, by } = this.view.state;
    this.view.preview(by ? [+token, key] : [query, +token]);
  }

  chosen(event) {
    // No click comes from lines that were written anew while the button was down.
    const { clientX, clientY, target, button } = event, [x, y] = this.down ?? [];
    const token = target.dataset?.token;
    if (button || !(Math.hypot(clientX - x, clientY - y) < 5)) return;
    if (token !== undefined) this.view.choose(+token, event.shiftKey !== this.view.state.by);
  }

  pressed(event) {
    const { by, query, key } = this.view.state, by1 = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by1) return;
    event.preventDefault();
    const token = Math.min(Math.max((by ? key : query) + by1, 0), this.view.data.n_tokens - 1);
    this.view.choose(token, by);
    this.reveal(token);
  }
}
