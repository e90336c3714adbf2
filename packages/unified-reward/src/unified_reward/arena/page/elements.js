// What both pages need beside `dom.js`, which they share with the page of the reward server.

import { isNumber } from "./dom.js";

export const $ = (id) => document.getElementById(id);

/** Enlarge the pixels of a tiny picture or video as they are; smoothing would hide what there is. */
export function crispen(node) {
  const sides = [node.naturalWidth, node.naturalHeight, node.videoWidth, node.videoHeight];
  node.classList.toggle("tiny", Math.max(...sides.filter(isNumber)) < 200);
}
