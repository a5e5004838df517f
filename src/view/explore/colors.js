// Colours, those of the figures: nothing is nearly the page's own colour, more attention is darker (on dark pages
// lighter), to nearly black.

const DECADES = 4; // of the colour scale, which ends at 100 %
const THEMES = {
  light: {
    scale: ["#f8f5fb", "#dccde9", "#b593cd", "#8753a9", "#561c7c", "#1a0930"],
    ink: "#1f242b", paper: "#ffffff", after: "#ffffff", hatch: "#c9cfd6", query: "#0b649c", key: "#ae4208",
  },
  dark: {
    scale: ["#221e2b", "#3d2c57", "#66459a", "#9a71d2", "#cbb0f2", "#f8f1ff"],
    ink: "#dfe3e8", paper: "#15181c", after: "#15181c", hatch: "#444c57", query: "#6cc0ff", key: "#ffa45c",
  },
};

const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const pixel = ([r, g, b]) => new Uint32Array(new Uint8Array([r, g, b, 255]).buffer)[0];

/** Returns the theme of the page around an element: dark if its text is light. */
function themeOf(element) {
  const [r, g, b] = getComputedStyle(element).color.match(/[\d.]+/g).map(Number);
  return r + g + b > 382 ? THEMES.dark : THEMES.light;
}

/** Returns the colour of a mass, as red, green and blue. */
function colorOf({ scale }, mass) {
  const share = Math.min(1, Math.max(0, 1 + Math.log10(mass) / DECADES));
  const at = share * (scale.length - 1), low = Math.min(Math.floor(at), scale.length - 2);
  const above = channels(scale[low + 1]);
  return channels(scale[low]).map((c, i) => Math.round(c + (above[i] - c) * (at - low)));
}

/** Returns the pixel of each mass. */
function paletteOf(theme) {
  theme.palette ??= Uint32Array.from(MASSES, (mass) => pixel(colorOf(theme, mass)));
  return theme.palette;
}

/** Returns the colour of a mass and that of text on it, as styles. */
function shaded(theme, bits) {
  theme.shades ??= new Map();
  if (!theme.shades.has(bits)) {
    const color = colorOf(theme, MASSES[bits]), [r, g, b] = color;
    theme.shades.set(bits, [`rgb(${color})`, 0.3 * r + 0.59 * g + 0.11 * b > 140 ? "#15181c" : "#ffffff"]);
  }
  return theme.shades.get(bits);
}

/** Draws cells: hatched where pruned, dotted where the view does not tell, flat where a query sees no key. */
function picture(levels, queries, keys, window, theme, size, ratio = 1) {
  const image = new ImageData(size, size), pixels = new Uint32Array(image.data.buffer), palette = paletteOf(theme);
  const [paper, hatch, after] = [theme.paper, theme.hatch, theme.after].map((hex) => pixel(channels(hex)));
  const columnOf = Int32Array.from({ length: size }, (_, x) => Math.floor((x * keys.n) / size));
  const columns = Array.from({ length: keys.n }, (_, x) => keys.tokens(x));
  const period = Math.round((size < 120 ? 4 : 7) * ratio), width = Math.max(1, Math.floor(ratio));
  for (let y = 0, at = 0; y < size; y++) {
    const row = Math.floor((y * queries.n) / size), [first, end] = queries.tokens(row);
    for (let x = 0; x < size; x++, at++) {
      const column = columnOf[x], [from, to] = columns[column], level = levels[row * keys.n + column];
      const seen = from < end && (!window || to + window > first + 1);
      if (!seen) pixels[at] = after;
      else if (level >= 0) pixels[at] = palette[level];
      else if (level === PRUNED) pixels[at] = (x + y) % period < width ? hatch : paper;
      else pixels[at] = x % period < 2 * width && y % period < 2 * width ? hatch : paper;
    }
  }
  return image;
}
