// Finds a text in the prompt; what was found can become the query or the key.

const MAX_HITS = 2000;

class Search {
  constructor(view) {
    this.view = view;
    this.at = -1;
    this.field = element("input", {
      type: "search", placeholder: "find in the prompt ( / )", "aria-label": "Find in the prompt", spellcheck: false,
      oninput: () => this.find(), onkeydown: (event) => this.pressed(event),
    });
    this.count = element("span", { class: "count", role: "status" });
    this.use = element("span", { class: "use", hidden: true },
      button("as query", () => this.chosen(false)), button("as key", () => this.chosen(true)));
    this.root = element("div", { class: "search", role: "search" }, this.field, this.count,
      button("‹", () => this.go(-1), { "aria-label": "Previous hit", title: "Previous hit (N)" }),
      button("›", () => this.go(1), { "aria-label": "Next hit", title: "Next hit (n)" }), this.use);
  }

  /** Finds the text, whatever the case of its letters, and goes to the first place. */
  find() {
    const { data, reading } = this.view, wanted = this.field.value.toLowerCase(), hits = [];
    // Lower case may be longer than the text, which would shift all places.
    const lower = data.text.toLowerCase(), text = lower.length === data.text.length ? lower : data.text;
    for (let at = wanted ? text.indexOf(wanted) : -1; at >= 0 && hits.length < MAX_HITS; at = text.indexOf(wanted, at + 1)) {
      hits.push([this.tokenAt(at), this.tokenAt(at + wanted.length - 1) + 1]);
    }
    reading.hits = hits;
    this.at = -1;
    this.use.hidden = !hits.length;
    if (hits.length) this.go(1);
    else {
      this.count.textContent = wanted ? "not found" : "";
      reading.scrolled();
    }
  }

  /** Returns the last token that starts at or before a place in the text. */
  tokenAt(place) {
    const { starts } = this.view.data;
    let low = 0, high = starts.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (starts[middle] <= place) low = middle;
      else high = middle;
    }
    return low;
  }

  go(by) {
    const { reading } = this.view, n = reading.hits.length;
    if (!n) return;
    this.at = this.at < 0 ? 0 : (this.at + by + n) % n;
    this.count.textContent = `${number(this.at + 1)} of ${n === MAX_HITS ? "at least " : ""}${number(n)}`;
    reading.reveal(reading.hits[this.at][0], true);
    reading.scrolled();
  }

  chosen(isKey) {
    const hit = this.view.reading.hits[this.at];
    if (hit) this.view.choose(hit[0], isKey);
  }

  pressed(event) {
    event.stopPropagation();
    if (event.key === "Enter") this.go(event.shiftKey ? -1 : 1);
    if (event.key === "Escape") this.view.reading.page.focus();
  }
}
