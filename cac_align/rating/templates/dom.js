// Elements from data: text is only ever set as text, so that no name or prompt becomes markup.
export const $ = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, []);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else if (name.startsWith("aria-")) node.setAttribute(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((c) => c != null && c !== false));
  return node;
}

let timer = 0;

export function tell(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
  clearTimeout(timer);
  if (text) timer = setTimeout(() => tell(""), 9000);
}

export const percent = (x) => (x == null ? "–" : (100 * x).toFixed(1) + " %");

// A reward in [0, 1] with the digits that tell it from 0 and 1.
export function reward(x) {
  if (x == null) return "–";
  const rest = Math.min(x, 1 - x), digits = rest > 0 && rest < 1 ? Math.ceil(-Math.log10(rest)) + 1 : 3;
  return x.toFixed(Math.min(Math.max(digits, 3), 8));
}
