// The page that people vote on: an item, a vote, the next item.

import { Clips } from "./clips.js";
import { el, say } from "./dom.js";
import { $ } from "./elements.js";
import { prepare, starRows, starsOf } from "./item.js";
import { ServerError, pause, request, token } from "./server.js";

const TOKEN = "unified-reward-arena-token";
const KEYS = {
  ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", ArrowDown: "tie", 3: "tie",
  4: "both_bad", 5: "cannot_tell", "?": "cannot_tell",
};
const LABELS = {
  image_editing: "Instruction",
  image_understanding: "Question",
  video_understanding: "Question",
};
const SAVED = "Saved.";
const TAKEN_BACK = "Taken back; vote again.";
const KEYS_OFF = "unified-reward-arena-keys-off";
const choices = [...$("choices").querySelectorAll("button")];

let secret = "";
/** View in the document, and the one of the item that comes after it. */
let view = null;
let following = null;
let clips = null;
let wantsMotion = !matchMedia("(prefers-reduced-motion: reduce)").matches;
let progress = { done: 0, total: 0, undo: false };
let since = null;
/** A vote or an undo is on its way, or no item is there. */
let busy = true;

/** Place in the tab of a vote that is not known to be saved; each rater has an own one. */
const pending = () => `unified-reward-arena-vote-${secret}`;

// ------------------------------------------------------------------------------------------- server

/** Answer of a route, however long the server is away. */
async function ask(path, body) {
  for (let tries = 0; ; tries += 1) {
    try {
      const answer = await request(path, secret, body);
      if (tries) say($("problem"), "");
      return answer;
    } catch (error) {
      error.isRepeated = tries > 0;
      if (!error.isPassing) throw error;
      const kept = body ? "Your vote is kept here, and sent until the server has it." : "Trying again…";
      say($("problem"), `${error.message} ${kept}`);
      await pause(Math.min(5000, 250 * 2 ** tries));
    }
  }
}

/** Send a vote; says how it went. A vote that was sent before may have arrived unheard. */
async function deliver(body, wasSent = false) {
  let note = SAVED;
  try {
    await ask("vote", body);
  } catch (error) {
    if (!(error instanceof ServerError) || error.status === 401) throw error;
    if (error.type !== "duplicate") note = `Not saved: ${error.message}`;
    else if (!wasSent && !error.isRepeated) note = "You voted on this pair before, in another window; that vote counts.";
  }
  sessionStorage.removeItem(pending());
  return note;
}

/** Do something with the server while nothing else may be done; a token that it refuses is asked for. */
async function exclusively(action) {
  busy = true;
  enable();
  try {
    const [got, note] = await action();
    show(got, note);
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    say($("problem"), error.message);
    if (error.status === 401) askToken();
  }
}

function begin() {
  secret = token(TOKEN);
  if (!secret) return askToken();
  const kept = sessionStorage.getItem(pending());
  return exclusively(async () => {
    const note = kept ? await deliver(JSON.parse(kept), true) : "";
    return [await ask("item"), note];
  });
}

function vote(choice) {
  if (busy || !isAllowed(choice)) return;
  const { stars } = starsOf($("stars"), view.item.aspects);
  const body = { id: view.item.id, choice, aspects: stars, seconds: (performance.now() - since) / 1000 };
  sessionStorage.setItem(pending(), JSON.stringify(body));
  choices.find(({ value }) => value === choice).classList.add("chosen");
  exclusively(async () => {
    const note = await deliver(body);
    return [await ask("item"), note];
  });
}

function undo() {
  if (busy || !progress.undo) return;
  exclusively(async () => {
    try {
      return [await request("undo", secret, {}), TAKEN_BACK];
    } catch (error) {
      if (!(error instanceof ServerError) || error.status === 401) throw error;
      const got = await ask("item");  // an undo is not sent again: it might take back two
      return [got, got.progress.done < progress.done ? TAKEN_BACK : `Nothing was taken back: ${error.message}`];
    }
  });
}

function askToken() {
  sessionStorage.removeItem(TOKEN);
  for (const id of ["question", "choices", "end", "undo", "progress"]) $(id).hidden = true;
  say($("status"), "The arena needs your token.");
  $("access").hidden = false;
  $("token").focus();
}

// --------------------------------------------------------------------------------------------- item

/** Show what the server gave: an item, or the end. */
function show(got, note) {
  progress = got.progress;
  document.title = got.title;
  clips?.close();
  clips = null;
  const isGood = [SAVED, TAKEN_BACK].includes(note);
  say($("problem"), isGood ? "" : note);
  $("access").hidden = true;
  showProgress(isGood ? note : "");
  $("question").hidden = $("choices").hidden = !got.item;
  $("end").hidden = Boolean(got.item);
  $("enlarged").close();
  busy = false;
  if (got.item) showItem(got.item, got.next);
  else showEnd();
}

function showProgress(note) {
  const { done, total } = progress;
  const count = `${done} of ${total}`;
  say($("status"), `${note} ${count}`.trim());
  $("status").classList.toggle("saved", note === SAVED);
  const bar = $("progress");
  bar.hidden = false;
  bar.setAttribute("aria-valuemax", total);
  bar.setAttribute("aria-valuenow", done);
  bar.setAttribute("aria-valuetext", count);
  bar.firstElementChild.style.setProperty("width", `${(100 * done) / Math.max(1, total)}%`);
  $("undo").hidden = !progress.undo;
}

function showEnd() {
  view = null;
  $("stage").replaceChildren();
  const { done } = progress;
  say($("end-count"), `There is nothing left for you to vote on. You gave ${done} ${done === 1 ? "vote" : "votes"}.`);
  $("end-title").focus();
}

function showItem(item, next) {
  view = following?.item.id === item.id ? following : prepare(item);
  following = null;
  since = null;
  say($("prompt-label"), LABELS[item.task] ?? "Prompt");
  say($("prompt"), item.prompt);
  say($("criteria"), item.criteria);
  $("stage").className = item.left.some(({ kind }) => kind === "text") ? "answers" : "";
  $("stage").replaceChildren(...view.figures);
  $("stars").hidden = !item.aspects.length;
  $("stars").replaceChildren(...(item.aspects.length ? [el("h3", {}, "Stars, if you like")] : []), ...starRows(item.aspects));
  $("player").hidden = $("pause-key").hidden = !view.videos.length;
  if (view.videos.length) clips = new Clips(view.videos, wantsMotion, showTime);
  for (const button of choices) button.classList.remove("chosen");
  view.enlarge = enlarge;
  view.changed = () => {
    enable();
    if (view.isReady() && next) following ??= prepare(next);
  };
  view.changed();
  scrollTo(0, 0);
  $("prompt").focus({ preventScroll: true });
}

/** Choices that the state of the media allows: all when they are there, one when they cannot be. */
function isAllowed(choice) {
  return view.isReady() || (view.isBroken() && choice === "cannot_tell");
}

function enable() {
  if (!view) return;
  if (view.isReady() || view.isBroken()) since ??= performance.now();
  for (const button of choices) button.setAttribute("aria-disabled", busy || !isAllowed(button.value));
}

function showTime({ time, duration, isPlaying }) {
  wantsMotion = isPlaying;
  say($("pause"), isPlaying ? "Pause" : "Play");
  $("seek").max = duration || 1;
  $("seek").value = time;
  const text = `${time.toFixed(1)} of ${duration.toFixed(1)} s`;
  $("seek").setAttribute("aria-valuetext", text);
  say($("time"), text);
}

// ----------------------------------------------------------------------------------------- pictures

let enlarged = 0;

function enlarge(place) {
  enlarged = (place + view.images.length) % view.images.length;
  const [name, image] = view.images[enlarged];
  say($("enlarged-name"), name);
  $("other").hidden = view.images.length < 2;
  $("enlarged").querySelector(".view").replaceChildren(el("img", { src: image.src, className: image.className, alt: `Picture: ${name}` }));
  if (!$("enlarged").open) $("enlarged").showModal();
}

// --------------------------------------------------------------------------------------------- page

function onKey(event) {
  const { key, target } = event;
  const isTyping = target.matches("input:not([type=checkbox])");
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || (event.shiftKey && key !== "?")) return;
  if ($("enlarged").open) {
    if (key === "ArrowLeft" || key === "ArrowRight") enlarge(enlarged + (key === "ArrowLeft" ? -1 : 1));
    return;
  }
  if (isTyping && key === "Escape" && view) $("prompt").focus();
  if (isTyping || !$("keys-on").checked || (key === " " && (!clips || target.matches("button, input")))) return;
  if (key === " ") clips.toggle();
  else if (key === "Backspace" || key.toLowerCase() === "u") undo();
  else if (Object.hasOwn(KEYS, key) && view) vote(KEYS[key]);
  else return;
  event.preventDefault();
}

document.addEventListener("keydown", onKey);
for (const button of choices) button.addEventListener("click", () => view && vote(button.value));
$("undo").addEventListener("click", undo);
$("pause").addEventListener("click", () => clips.toggle());
$("seek").addEventListener("input", () => clips.seek(Number($("seek").value)));
$("other").addEventListener("click", () => enlarge(enlarged + 1));
$("stars").addEventListener("change", () => {
  const { half } = starsOf($("stars"), view.item.aspects);
  $("stars").querySelectorAll("fieldset > p").forEach((node, i) => say(node, half[i] && `Give ${half[i]} stars too, or they do not count.`));
});
document.addEventListener("pointerup", () => setTimeout(() => {
  // keys vote again after a press on a star or the position
  if (document.activeElement.matches("[type=radio], [type=range]")) $("prompt").focus({ preventScroll: true });
}));
$("keys-on").checked = !localStorage.getItem(KEYS_OFF);
$("keys-on").addEventListener("change", () => {
  if ($("keys-on").checked) localStorage.removeItem(KEYS_OFF);
  else localStorage.setItem(KEYS_OFF, "1");
});
$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, $("token").value.trim());
  $("token").value = "";
  begin();
});
addEventListener("hashchange", () => {
  token(TOKEN);
  location.reload();
});
addEventListener("beforeunload", (event) => {
  if (sessionStorage.getItem(pending())) event.preventDefault();
});
begin();
