// The owner's page: what the votes say so far, read again every two seconds while it is seen.

import { el, isNumber, say } from "./dom.js";
import { $, crispen } from "./elements.js";
import { request, token } from "./server.js";

const TOKEN = "unified-reward-arena-owner";
const EVERY = 2000;  // milliseconds
const NONE = "–";

let secret = "";
let timer = 0;
/** Data of each section as text, to leave alone what did not change. */
const known = {};

const percent = (share) => (isNumber(share) ? `${(100 * share).toFixed(0)} %` : NONE);
const fixed = (value, places = 2) => (isNumber(value) ? value.toFixed(places).replace("-", "−") : NONE);
const interval = (pair, write) => (pair ? `${write(pair[0])} to ${write(pair[1])}` : "no interval");
const ratio = (part, whole) => (whole ? `${part} of ${whole}` : NONE);

// --------------------------------------------------------------------------------------------- parts

function table(caption, heads, rows) {
  const cells = (row) => row.map((cell, i) => el(i ? "td" : "th", i ? {} : { scope: "row" }, cell));
  return el("div", {}, el("small", { "aria-hidden": "true" }, caption), el("div", { class: "wide", tabIndex: 0, role: "region", "aria-label": caption },
    el("table", { "aria-label": caption },
      el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...cells(row)))))));
}

/** Interval and value on a line from low to high, with a mark at `zero`. */
function plot(value, pair, [low, high], zero) {
  const place = (x) => `${(100 * (x - low)) / (high - low || 1)}%`;
  const [from, to] = pair ?? [value, value];
  return el("div", { class: "plot", "aria-hidden": "true" },
    el("i", { class: "zero", style: { left: place(zero) } }),
    el("i", { class: "band", style: { left: place(from), right: `calc(100% - ${place(to)})` } }),
    el("i", { class: "dot", style: { left: place(value) } }));
}

const text = (content) => el("p", { class: "muted" }, content);

function numbers(rows) {
  return el("dl", {}, ...rows.flatMap(([name, value, note]) =>
    [el("dt", {}, name), el("dd", {}, el("b", {}, value), note ? el("small", {}, ` ${note}`) : null)]));
}

// ------------------------------------------------------------------------------------------ sections

function models({ models: rows, models_reason: reason, win_rates: rates, aspects }) {
  const names = Object.keys(rows).sort((a, b) => (rows[b].strength ?? 0) - (rows[a].strength ?? 0));
  if (!names.length) return [text(reason || "No votes yet.")];
  const ends = names.flatMap((name) => [rows[name].strength ?? 0, ...(rows[name].ci95 ?? [])]);
  const scale = [Math.min(...ends), Math.max(...ends)];
  const ranks = ([best, worst]) => (best === worst ? `${best}` : `${best}–${worst}`);
  const parts = [table("Bradley-Terry strengths in log-odds, with 95 % intervals over prompts",
    ["Model", "Rank", "Strength", "Interval", "95 %", "Wins", "95 %", "Prompts"],
    names.map((name) => {
      const { strength, ci95, rank, win_rate: wins, win_rate_ci95: winsInterval, n } = rows[name];
      return [name, rank ? ranks(rank) : NONE, fixed(strength), isNumber(strength) ? plot(strength, ci95, scale, 0) : "",
        interval(ci95, fixed), percent(wins), interval(winsInterval, percent), n];
    }))];
  if (reason) parts.push(text(reason));
  if (names.length > 2) {
    parts.push(table("Share of the wins of a row's model against a column's", ["Against", ...names],
      names.map((a) => [a, ...names.map((b) => percent(rates[a]?.[b]?.value))])));
  }
  for (const [aspect, means] of Object.entries(aspects)) {
    parts.push(table(`Stars for ${aspect}, 1 to 5`, ["Model", "Mean", "95 %", "Prompts"],
      Object.entries(means).map(([name, { mean, ci95, n }]) => [name, fixed(mean), interval(ci95, fixed), n])));
  }
  return parts;
}

function votes({ votes: counts, agreement }) {
  const rows = [["one is better", counts.a + counts.b], ["tie", counts.tie], ["both bad", counts.both_bad], ["cannot tell", counts.cannot_tell]];
  const alpha = isNumber(agreement.alpha) ? `on ${agreement.items} items with several votes; 1 is full agreement, 0 is chance` : agreement.reason;
  return [
    numbers(rows.map(([name, n]) => [name, n, counts.n ? percent(n / counts.n) : ""])),
    numbers([["Krippendorff's alpha", fixed(agreement.alpha), alpha]]),
    text(`Besides: ${counts.gold} on gold items, ${counts.repeats} on repeats.`),
  ];
}

function raters({ raters: rows }) {
  if (!rows.length) return [text("No votes yet.")];
  return [table("Attention of the raters", ["Rater", "Votes", "Gold right", "Repeats alike", "Chose the left", "Seconds (median)", "Cannot tell"],
    rows.map((row) => [row.name, row.n, ratio(row.gold.right, row.gold.n), ratio(row.repeats.consistent, row.repeats.n),
      percent(row.left_share), fixed(row.seconds, 1), row.cannot_tell]))];
}

function medium({ kind, url, text: words }, name) {
  if (kind === "text") return el("p", { class: "answer", dir: "auto" }, words);
  const node = kind === "video"
    ? el("video", { src: url, muted: true, loop: true, controls: true, playsInline: true, preload: "metadata", "aria-label": name })
    : el("img", { src: url, alt: name, loading: "lazy" });
  node.addEventListener(kind === "video" ? "loadedmetadata" : "load", () => crispen(node));
  return node;
}

function disagreement({ id, prompt, a, b, people, judge: judged, votes: n }, media) {
  const sides = media[id] ?? {};
  const side = (place, name, note) => (sides[place]?.length
    ? el("figure", {}, ...sides[place].map((part) => medium(part, name)), el("figcaption", {}, el("b", {}, name), note ? ` ${note}` : ""))
    : null);
  const note = (share, verdict) => `people ${percent(share)}, judge ${percent(verdict)}`;
  return el("li", {},
    el("p", { dir: "auto" }, prompt), el("small", {}, `${n} ${n === 1 ? "vote" : "votes"}; shares of the win:`),
    el("div", { class: "sides" }, side("context", "Given"), side("a", a, note(people, judged)), side("b", b, note(1 - people, 1 - judged))));
}

function judge({ judge: got, media }) {
  if (!got) return [text("No verdicts of a judge were given (--judge-verdicts).")];
  const { value, ci95, n } = got.accuracy;
  const rows = got.disagreements.filter((row) => Math.sign(row.people - 0.5) !== Math.sign(row.judge - 0.5));
  return [
    numbers([["Items where the judge agrees with people", percent(value), `${interval(ci95, percent)}, on ${n} prompts; ${got.items} items`]]),
    el("h3", {}, "Where they prefer different ones"),
    rows.length ? el("ol", { class: "disagreements" }, ...rows.map((row) => disagreement(row, media))) : text("Nowhere so far."),
  ];
}

function broken({ broken: rows }) {
  if (!rows.length) return [text("None so far; a medium is read before people see it.")];
  return [el("ul", {}, ...rows.map(({ id, reason }) => el("li", {}, el("b", {}, id), ` ${reason}`)))];
}

const SECTIONS = { models, votes, raters, broken, judge };

// --------------------------------------------------------------------------------------------- page

function render({ title, standings, broken: rows, media }) {
  document.title = `${title}: standings`;
  say($("title"), title);
  const { votes: done, needed } = standings.progress;
  say($("summary"), `${done} of ${needed} votes. Read again every two seconds.`);
  const bar = $("progress");
  bar.hidden = false;
  bar.setAttribute("aria-valuemax", needed);
  bar.setAttribute("aria-valuenow", done);
  bar.firstElementChild.style.setProperty("width", `${Math.min(100, (100 * done) / Math.max(1, needed))}%`);
  $("sections").hidden = false;
  const data = { ...standings, broken: rows, media };
  for (const [name, build] of Object.entries(SECTIONS)) {
    const parts = build(data);
    const written = parts.map((part) => part.outerHTML).join("");
    if (known[name] !== written) $(name).replaceChildren(...parts);
    known[name] = written;
  }
}

function askToken() {
  sessionStorage.removeItem(TOKEN);
  $("access").hidden = false;
  $("sections").hidden = true;
  say($("summary"), "The standings need the owner's token.");
  $("token").focus();
}

async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    render(await request("standings", secret));
    say($("problem"), "");
    $("access").hidden = true;
  } catch (error) {
    if (!("isPassing" in error)) throw error;
    say($("problem"), error.message);
    if (error.status === 401 || error.status === 403) return askToken();
  }
  clearTimeout(timer);
  timer = setTimeout(refresh, EVERY);
}

function begin() {
  secret = token(TOKEN);
  if (secret) refresh();
  else askToken();
}

document.addEventListener("visibilitychange", () => secret && refresh());
$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, $("token").value.trim());
  $("token").value = "";
  begin();
});
addEventListener("hashchange", begin);
begin();
