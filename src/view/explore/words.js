// Words: numbers and texts as the view writes them, and elements made of them.

const grouped = new Intl.NumberFormat("en");
const number = (n) => grouped.format(n);
const headName = ({ layer, head }) => `L${layer}H${head}`;

/** Formats a mass: three digits from 10 % on, else two. Only a mass of 1 is 100 %. */
function percent(share) {
  const p = 100 * share;
  if (p < 100 && p > 99.9) return "99.9 %";
  if (p > 0 && p < 0.001) return "< 0.001 %";
  return `${Number(p.toPrecision(p >= 10 ? 3 : 2))} %`;
}

/** Formats tokens start..end: "3,296", or "3,296–3,327". */
const span = ([start, end]) => (end - start === 1 ? number(start) : `${number(start)}–${number(end - 1)}`);
const several = (one, many, tokens) => `${tokens[1] - tokens[0] === 1 ? one : many} ${span(tokens)}`;

/** Shows what cannot be seen: line ends and tabs, and the blanks at both ends. */
function visible(text) {
  const shown = text.replaceAll("\n", "⏎").replaceAll("\t", "⇥");
  return shown.replace(/^ +| +$/g, (blanks) => "␣".repeat(blanks.length));
}

/** Returns as much of a text as fits into `width` pixels. */
function fitting(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let n = text.length;
  while (n > 1 && context.measureText(`${text.slice(0, n)}…`).width > width) n--;
  return `${text.slice(0, n)}…`;
}

/** Makes an element. Attributes whose name starts with "on" are listeners. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const button = (text, onclick, attributes = {}) => element("button", { type: "button", onclick, ...attributes }, text);

/** Returns the text of tokens, marked, with some of the text around it; long texts are cut. */
function passage({ words, n_tokens }, [start, end], around, kind) {
  const cut = Math.min(end, start + 64), flat = (text) => text.replace(/\s+/g, " ");
  const before = flat(words([Math.max(0, start - around), start]));
  const after = cut < end ? " …" : flat(words([end, Math.min(n_tokens, end + around)]));
  return [before, element("mark", { class: kind }, visible(words([start, cut]))), after];
}
