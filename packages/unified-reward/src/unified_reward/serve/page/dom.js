// Elements of pages. Data reaches the document as text nodes and attributes, never as markup.

/** An element; properties are set as such, except class, style, role and names with a hyphen. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") node.className = value;
    else if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else if (name === "style") for (const [key, each] of Object.entries(value)) node.style.setProperty(key, each);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Replace a text only if it differs, so that live regions do not repeat themselves. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
