// What surrounds maps and text: what the model wrote, the buttons, the legend, the list of keys.

const KEYS = [
  ["mouse over", "previews: status, both tokens"],
  ["click", "chooses a pair in a map, a token in the text"],
  ["drag in a map", "zooms to the box"],
  ["double click, wheel", "zoom where the mouse is"],
  ["Shift and drag", "moves the picture"],
  ["Shift and click", "on a head: opens it beside; on a token: chooses the other side of the pair"],
  ["arrows", "move the cursor in a map, the chosen token in the text, among the heads"],
  ["+ −", "zoom"], ["Home", "shows the whole prompt"],
  ["[ ]", "stronger and weaker key of the query"],
  ["/", "find in the prompt"], ["n N", "next and previous hit"], ["?", "shows and hides this list"],
];

/** Says what was read, what the model wrote, and how much of it the view shows. */
function introduction({ data }) {
  const wrote = data.traces.map(({ last, next: [text, probability], name, facts }) => {
    const of = data.traces.length > 1 ? `${name}: ` : "", end = visible(data.words([last, data.n_tokens]));
    const next = element("b", {}, `“${visible(text)}”`), about = element("span", { class: "caption" }, facts);
    return element("p", { class: "wrote" }, `${of}…${end} → `, next, ` (${probability}) `, about);
  });
  const title = element("p", { class: "title" }, element("b", {}, data.title));
  return [title, ...wrote, element("p", { class: "notes" }, data.notes)];
}

function toolbar(view) {
  const tool = (text, title, act) => button(text, act, { title });
  const link = () => location.href.replace(/#.*/, "") + `#${addressOf(view)}`;
  const beside = tool("Two heads", "Open a second head beside this one", () => view.openSecond());
  beside.hidden = view.data.traces.length > 1;
  view.said = element("span", { class: "said", role: "status" });
  view.copied = element("input", { class: "copied", readonly: true, hidden: true, "aria-label": "What was copied" });
  return element("div", { class: "tools", role: "toolbar", "aria-label": "View" },
    tool("Zoom in", "Zoom in around the cursor (+)", () => view.zoom(1 / 4)),
    tool("Zoom out", "Zoom out around the cursor (−)", () => view.zoom(4)),
    tool("Whole prompt", "Show the whole prompt (Home)", () => view.whole()),
    tool("What the output read", "Go to what the last query looks at most", () => view.toOutput()),
    beside,
    tool("Copy link", "Copy this page's address with what is chosen", () => copy(view, link())),
    tool("Copy as command", "Copy the command that draws this map", () => copy(view, commandOf(view))),
    tool("Copy as Rust", "Copy the Rust that draws this map", () => copy(view, rustOf(view))),
    tool("Save PNG", "Save this map as a picture", () => savePicture(view)),
    tool("?", "Keys and gestures (?)", () => view.toggleHelp()),
    view.said, view.copied);
}

function keysList(view) {
  const entries = KEYS.flatMap(([key, does]) => [element("dt", {}, key), element("dd", {}, does)]);
  view.help = element("dl", { class: "help", hidden: true }, ...entries);
  return view.help;
}

function legend(view) {
  const entry = (kind, text) => element("span", { class: `swatch ${kind}` }, text);
  view.cut = entry("cut", "kept or pruned: not in this view");
  return element("p", { class: "legend" },
    element("span", {}, "≤ 0.01 %"), element("span", { class: "scale" }), element("span", {}, "100 %"),
    entry("pruned", "pruned"), view.cut, entry("after", "after the query"));
}
