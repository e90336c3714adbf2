// What the page shows of numbers and files.

import { el, isNumber } from "./dom.js";

export const letter = (i) => (i < 26 ? String.fromCharCode(65 + i) : String(i + 1));
export const badge = (i) => el("span", { class: "letter" }, letter(i));

/** Whole percents, with a digit more near 0 and 1; only 0 itself is "0 %". */
export function percent(share) {
  if (share > 0 && share < 0.0005) return "<0.1 %";
  if (share > 0.9995 && share < 1) return ">99.9 %";
  return `${(100 * share).toFixed(share > 0 && share < 1 && Math.abs(share - 0.5) > 0.49 ? 1 : 0)} %`;
}

/** Digits after the point follow the width of the scale, or the size of the number. */
export function digits(value, [low, high]) {
  if (isNumber(low) && isNumber(high)) return high - low > 2 ? 2 : 3;
  return Math.abs(value) < 10 ? 3 : 2;
}

/** "1 to 5", "0 or more"; empty for a scale without sides. */
export function range([low, high]) {
  if (isNumber(low) && isNumber(high)) return `${low} to ${high}`;
  return isNumber(low) ? `${low} or more` : isNumber(high) ? `${high} or less` : "";
}

/** Picture or video of a file. Without controls it is decoration beside a name. */
export function view({ file, kind, url }, name, controls = false) {
  const frame = el("div", { class: "view" });
  const label = name ? `${name}: ${file.name}` : "";
  const shown = kind === "video"
    ? el("video", { src: `${url}#t=0.1`, muted: true, playsInline: true, preload: "metadata", controls, "aria-label": label || file.name })
    : el("img", { src: url, alt: label });
  shown.addEventListener("error", () => frame.replaceChildren("no preview"));
  frame.append(shown);
  return frame;
}
