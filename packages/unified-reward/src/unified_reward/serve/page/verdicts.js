// Verdicts as elements. A row without a number shows its reason instead.

import { el, isNumber } from "./dom.js";
import { badge, digits, letter, percent, range, view } from "./elements.js";

/** Card of a judge: the outcome for all candidates, then every candidate's score. */
export function card(asked, judge, scores, outcome) {
  const rows = Array.isArray(scores) ? scores : [];
  const task = judge.tasks?.[asked.task];
  const scale = task?.scale ?? rows.find((each) => each.scale)?.scale ?? [];
  const about = [
    range(scale) && `scale ${range(scale)}`,
    !range(scale) && judge.values,
    rows.some(({ sigma }) => isNumber(sigma)) && "± one sigma",
    judge.higher_is_better === false && "lower is better",
  ];
  const node = el("article", { class: "panel card" },
    el("header", {}, el("h3", {}, judge.name), el("small", {}, about.filter(Boolean).join(" · "))));
  const said = [];  // for the live region
  const [row] = Array.isArray(outcome) ? outcome : [];
  if (outcome instanceof Error) node.append(failed(outcome.message));
  else if (row?.status === "preferred") said.push(preferred(node, row, asked.orders));
  else if (row?.status === "ranked") said.push(ranked(node, row));
  else if (row) {
    node.append(failed(reason(row)), ...extras(row));
    said.push(asked.candidates.length === 2 ? "no comparison" : "no ranking");
  }
  if (scores instanceof Error) node.append(failed(scores.message));
  else if (scores) node.append(scoreList(asked, scores, row, task?.aspects ?? {}));
  const numbers = rows.map((each, i) => scoreText(each) && `${letter(i)} ${scoreText(each)}`).filter(Boolean);
  if (!said.length) said.push(...numbers);
  if (numbers.length < rows.length) said.push(`${rows.length - numbers.length} of ${rows.length} without a score`);
  return { node, summary: `${judge.name}: ${said.join(", ") || "no result"}.` };
}

const failed = (text) => el("p", { class: "failed" }, text);

function reason(row) {
  const words = row.reason || "The server gives no reason.";
  return row.status === "unparsed" ? `The answer cannot be read: ${words}` : `Failed: ${words}`;
}

/** Notes and the judge's own text. */
function extras(row) {
  const noted = row.reason?.startsWith("note: ") ? el("p", { class: "muted" }, el("small", {}, `Note: ${row.reason.slice(6)}`)) : null;
  const text = row.text ? el("details", {}, el("summary", {}, "Answer of the judge"), el("pre", { tabIndex: 0 }, row.text)) : null;
  return [noted, text].filter(Boolean);
}

const WINS = { first: "A is better", tie: "A and B tie", second: "B is better" };

function shares(row, slim = "") {
  const names = ["first", "tie", "second"];
  return el("div", { class: `shares ${slim}`, "aria-hidden": "true" },
    ...names.map((name) => el("i", { class: name, style: { "flex-grow": row[`p_${name}`] } })));
}

function preferred(node, row, orders) {
  const key = (name, label) => el("span", {}, el("i", { class: name }), `${label} ${percent(row[`p_${name}`])}`);
  const agree = {
    true: "Both orders name the same winner.",
    false: "The two orders name different winners.",
    1: "Asked in one order.",
    2: "Does not depend on their order.",
  };
  const box = el("div", { class: "outcome" }, el("strong", {}, WINS[row.winner]), shares(row),
    el("p", { class: "keys" }, key("first", "A"), key("tie", "tie"), key("second", "B")));
  box.append(el("p", { class: row.consistent === false ? "failure" : "muted" }, agree[row.consistent ?? orders]));
  if (row.orders?.length > 1) {
    box.append(el("div", { class: "orders" }, ...row.orders.flatMap((each, i) =>
      [el("span", {}, `${letter(i)} asked first`), shares(each, "slim"), el("span", {}, WINS[each.winner])])));
  }
  const named = Object.entries(row.aspects ?? {}).filter(([, share]) => isNumber(share));
  if (named.length) box.append(aspectList(named.map(([name, share]) => [name, share, `A ${percent(share)}`])));
  node.append(box, ...extras(row));
  return WINS[row.winner] + (row.winner === "tie" ? "" : `, ${percent(row[`p_${row.winner}`])}`);
}

function ranked(node, row) {
  const order = row.order.map(letter).join(" > ");
  node.append(el("div", { class: "outcome" }, el("strong", {}, order), el("p", { class: "muted" }, "Best first.")), ...extras(row));
  return `${row.order.map(letter).join(", ")}, best first`;
}

/** Number of a scored row with its deviation; empty if it has none. */
function scoreText(row) {
  if (row.status !== "scored" || !isNumber(row.value)) return "";
  const places = digits(row.value, row.scale ?? []);
  return row.value.toFixed(places) + (isNumber(row.sigma) ? ` ± ${row.sigma.toFixed(places)}` : "");
}

/** Scores of the candidates, in the order of the ranking if there is one. */
function scoreList(asked, rows, outcome, aspects) {
  const order = [...new Set([...(outcome?.order ?? []), ...rows.keys()])];
  return el("ol", { class: "scores" }, ...order.map((i) => {
    const candidate = asked.candidates[i];
    const row = rows[i];
    const number = scoreText(row);
    const name = typeof candidate === "string" ? candidate : candidate.file.name;
    const head = el("div", { class: "says" }, badge(i), el("span", { class: "name", title: name }, name), number ? el("b", {}, number) : el("span"));
    const box = el("div", { class: "body" }, head);
    if (number) box.append(...gauge(row));
    else if (row.status !== "scored") box.append(failed(reason(row)));
    const named = Object.entries(row.aspects ?? {}).filter(([, value]) => isNumber(value));
    if (named.length) {
      box.append(aspectList(named.map(([key, value]) => {
        const [low, high] = aspects[key] ?? [];
        const closed = isNumber(low) && isNumber(high);
        return [key, closed ? (value - low) / (high - low) : null, value.toFixed(digits(value, [low, high])) + (closed ? ` of ${high}` : "")];
      })));
    }
    box.append(...extras(row));
    return typeof candidate === "string" ? el("li", {}, box) : el("li", { class: "pictured" }, view(candidate, ""), box);
  }));
}

const clip = (share) => `${100 * Math.min(1, Math.max(0, share))}%`;

/** Place of a score on its scale, with a band of one sigma to either side; nothing for an open scale. */
function gauge({ value, scale, sigma }) {
  const [low, high] = scale ?? [];
  if (!isNumber(low) || !isNumber(high)) return [];
  const place = (x) => (x - low) / (high - low);
  const band = isNumber(sigma)
    ? el("i", { class: "band", style: { left: clip(place(value - sigma)), right: clip(1 - place(value + sigma)) } }) : null;
  const dot = el("i", { class: "dot", style: { left: clip(place(value)) } });
  return [el("div", { class: "track", "aria-hidden": "true" }, band, dot),
    el("div", { class: "axis", "aria-hidden": "true" }, el("span", {}, String(low)), el("span", {}, String(high)))];
}

/** Aspects, each [name, share of the bar or null, text]. */
function aspectList(rows) {
  return el("dl", { class: "aspects" }, ...rows.flatMap(([name, share, text]) => [
    el("dt", {}, name),
    el("dd", { "aria-hidden": "true" }, isNumber(share)
      ? el("div", { class: "track" }, el("i", { class: "fill", style: { width: clip(share) } })) : ""),
    el("dd", { class: "number" }, text)]));
}
