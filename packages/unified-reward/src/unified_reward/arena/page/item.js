// View of an item: its media as elements, each with a state, and its stars.

import { el } from "./dom.js";
import { crispen } from "./elements.js";
import { pause } from "./server.js";

const NAMES = { left: "A", right: "B" };
const letter = (name) => el("span", { class: "letter", "aria-hidden": "true" }, name);

/**
 * Build the view of an item and begin to load its media, before it is in the document.
 *
 * Returns {item, figures, images: [[name, element]], videos, isReady, isBroken}, and two functions
 * to set: `changed()` is called when the state of a medium changes, `enlarge(place)` for a picture.
 */
export function prepare(item) {
  const view = { item, images: [], videos: [], states: [], changed() {}, enlarge() {} };
  view.isReady = () => view.states.every((state) => state.value === "ready");
  view.isBroken = () => view.states.some((state) => state.value === "broken");
  view.figures = ["context", "left", "right"].filter((place) => item[place].length).map((place) => {
    const name = NAMES[place] ?? (item.task === "image_editing" ? "Before the edit" : "In question");
    const frames = item[place].map((part) => (part.kind === "text" ? answer(part.text) : frame(view, part, name)));
    const caption = place === "context" ? el("span", { class: "muted" }, name) : letter(name);
    return el("figure", { class: place, "aria-label": name }, el("figcaption", {}, caption), ...frames);
  });
  return view;
}

const answer = (text) => el("p", { class: "answer", dir: "auto" }, text);

/** Frame of a picture or a video. */
function frame(view, { kind, url }, name) {
  const isVideo = kind === "video";
  const medium = isVideo
    ? el("video", { muted: true, playsInline: true, preload: "auto", "aria-label": `Video: ${name}` })
    : el("img", { alt: "", decoding: "async" });
  const box = isVideo
    ? el("div", { class: "view" }, medium)
    : el("button", { type: "button", class: "view", "aria-label": `Enlarge: ${name}` }, medium);
  if (isVideo) view.videos.push(medium);
  else {
    const place = view.images.push([name, medium]) - 1;
    box.addEventListener("click", () => view.enlarge(place));
  }
  const state = { value: "loading" };
  const holder = el("div", { class: "frame loading" }, box);
  view.states.push(state);

  const turn = (value) => {
    state.value = value;
    holder.className = `frame ${value}`;
    box.hidden = value === "broken";
    holder.querySelector(".failed")?.remove();
    if (value === "broken") holder.append(failure(isVideo ? "video" : "picture", name, load));
    view.changed();
  };
  const load = () => {
    if (state.value !== "loading") turn("loading");
    medium.src = url;
  };
  medium.addEventListener(isVideo ? "canplay" : "load", () => {
    crispen(medium);
    if (state.value !== "ready") turn("ready");
  });
  medium.addEventListener("error", async () => {
    const isAnswered = await fetch(url, { method: "HEAD" }).then(() => true, () => false);
    if (isAnswered) return turn("broken");
    await pause(1000);  // the server is away; the file may be whole
    load();
  });
  load();
  return holder;
}

function failure(kind, name, again) {
  const button = el("button", { type: "button", class: "quiet" }, "Load again");
  button.addEventListener("click", again);
  return el("div", { class: "failed", role: "alert" },
    el("p", {}, `This ${kind} (${name}) cannot be shown. Load it again, or answer “cannot tell”.`), button);
}

/** Stars of an item's aspects, for A and for B. */
export function starRows(aspects) {
  return aspects.map((aspect, i) => el("fieldset", {},
    el("legend", { dir: "auto" }, aspect),
    ...Object.entries(NAMES).map(([side, name]) => el("div", { class: "stars", role: "radiogroup", "aria-label": `${aspect}, ${name}` },
      letter(name),
      ...[1, 2, 3, 4, 5].map((value) => el("label", {},
        el("input", { type: "radio", name: `${i}-${side}`, value, "aria-label": value === 1 ? "1 star" : `${value} stars` }), el("span"))))),
    el("p", { class: "muted" })));
}

/** Stars given to both sides, [A, B] by aspect; `half` names aspects with stars on one side alone. */
export function starsOf(form, aspects) {
  const given = new FormData(form);
  const rows = aspects.map((aspect, i) => [aspect, Object.keys(NAMES).map((side) => Number(given.get(`${i}-${side}`)))]);
  return {
    stars: Object.fromEntries(rows.filter(([, pair]) => pair.every(Boolean))),
    half: rows.map(([, pair]) => (pair.every(Boolean) || !pair.some(Boolean) ? "" : NAMES[pair[0] ? "right" : "left"])),
  };
}
