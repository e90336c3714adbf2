// The page of the reward server: a form that asks /v1/score, /v1/compare and /v1/rank.

import { el, say } from "./dom.js";
import { badge, letter, range, view } from "./elements.js";
import { card } from "./verdicts.js";

const $ = (id) => document.getElementById(id);
const TOKEN = "unified-reward-token";
const WORDS = {
  image_generation: "generated images",
  video_generation: "generated videos",
  image_editing: "edited images",
  image_understanding: "answers about images",
  video_understanding: "answers about videos",
};
const MODES = {
  generation: { prompt: "Prompt", tasks: ["image_generation", "video_generation"] },
  editing: { prompt: "Instruction", tasks: ["image_editing"] },
  understanding: { prompt: "Question", tasks: ["image_understanding", "video_understanding"] },
};

/** Files of the two zones: {file, kind: "image" | "video", url}. */
const media = { context: [], candidates: [] };
/** Judges that the user unticked. */
const unticked = new Set();
let roster = [];
let running = null;

// ------------------------------------------------------------------------------------------- server

class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function headers() {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Fetch JSON. An error of the server is thrown in its own words; a 401 opens the token field. */
async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, ...headers() }, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server does not answer.");
  }
  if (response.status === 401) askToken();
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const after = Number(response.headers.get("Retry-After"));
  const wait = after > 0 ? ` Try again in ${after} s.` : "";
  throw new ServerError(response.status, `${body.error?.message ?? `The server answers ${response.status}.`}${wait}`);
}

function askToken() {
  const known = sessionStorage.getItem(TOKEN) !== null;
  sessionStorage.removeItem(TOKEN);
  if (known) say($("token-problem"), "The server does not take this token.");
  if ($("access").hidden || known) {
    $("access").hidden = false;
    $("token").focus();
  }
}

/** Read the judges and their states; again later while one is loading or the server is away. */
async function refresh() {
  let again = 0;
  try {
    roster = (await request("v1/judges")).judges;
    $("access").hidden = true;
    const count = (state) => roster.filter((judge) => judge.state === state).length;
    const parts = ["ready", "loading", "failed"].filter(count).map((state) => `${count(state)} ${state}`);
    say($("server"), `Judges: ${parts.join(", ") || "none"}.`);
    again = count("loading") ? 500 : 0;
  } catch (error) {
    say($("server"), error.status === 401 ? "The server asks for its token." : `${error.message} Trying again…`);
    again = error.status === 401 ? 0 : 3000;
  }
  renderJudges();
  if (again) setTimeout(refresh, again);
}

$("access").addEventListener("submit", async (event) => {
  event.preventDefault();
  say($("token-problem"), "");
  sessionStorage.setItem(TOKEN, $("token").value.trim());
  $("token").value = "";
  await refresh();
  if ($("access").hidden) $("ask").querySelector(".media:not([hidden]) .drop").focus();
});

// ------------------------------------------------------------------------------------------- judges

const mode = () => document.querySelector("[name=mode]:checked").value;

/** Tasks of the form as it is; two while it is open whether images or videos are judged. */
function tasks() {
  const known = MODES[mode()].tasks;
  const [first] = mode() === "understanding" ? media.context : media.candidates;
  return first && known.length > 1 ? [known[first.kind === "video" ? 1 : 0]] : known;
}

/** Forms that a judge is known to answer; one that names no tasks is asked anything. */
function forms(judge) {
  if (!judge.tasks) return new Set(["score", "compare"]);
  return new Set(tasks().flatMap((task) => judge.tasks[task]?.forms ?? []));
}

/** Reason why a judge cannot be asked; empty if it can. */
function hindrance(judge) {
  if (judge.state === "loading") return judge.reason || "It is being loaded.";
  if (judge.state !== "ready") return judge.reason || "It could not be loaded.";
  const able = forms(judge);
  if (!able.size) return `It does not judge ${tasks().map((task) => WORDS[task]).join(" or ")}.`;
  return count() === 1 && !able.has("score") ? "It compares two candidates, and there is one." : "";
}

/** Forms, scale, direction and licence of a judge in a line. */
function abilities(judge) {
  const able = forms(judge);
  const scale = judge.tasks?.[tasks()[0]]?.scale ?? [];
  const parts = [];
  if (able.has("score")) parts.push(`scores ${range(scale)}`.trim());
  if (able.has("compare")) parts.push("compares");
  if (judge.higher_is_better === false) parts.push("lower is better");
  const licence = judge.licence?.weights ?? judge.licence?.code ?? judge.licence;
  if (typeof licence === "string") parts.push(licence);
  return parts.join(" · ");
}

function renderJudges() {
  const list = $("judges");
  for (const [i, judge] of roster.entries()) {
    const row = list.children[i] ?? list.appendChild(judgeRow());
    const [box, words] = row.firstChild.children;
    const why = hindrance(judge);
    box.value = judge.name;
    box.disabled = why !== "";
    box.checked = why === "" && !unticked.has(judge.name);
    const state = judge.state === "ready" ? null
      : el("span", { class: judge.state === "failed" ? "badge bad" : "badge" }, judge.state);
    words.replaceChildren(el("b", {}, judge.name), ...[state].filter(Boolean), el("small", {}, why || abilities(judge)));
  }
  while (list.children.length > roster.length) list.lastChild.remove();
  renderRequest();
}

function judgeRow() {
  const box = el("input", { type: "checkbox" });
  box.addEventListener("input", () => unticked[box.checked ? "delete" : "add"](box.value));
  return el("li", {}, el("label", { class: "check" }, box, el("span")));
}

const chosen = () => roster.filter((judge) => !hindrance(judge) && !unticked.has(judge.name));

// -------------------------------------------------------------------------------------------- files

function zone(name) {
  const input = el("input", { type: "file", accept: "image/*,video/*", hidden: true, multiple: name === "candidates" });
  const button = el("button", { type: "button", class: "drop" });
  button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    add(name, [...input.files]);
    input.value = "";
  });
  $(name).append(el("b"), el("ol", { class: "files" }), button, input);
}

function add(name, list) {
  const added = list.map((file) => {
    const isVideo = file.type.startsWith("video/") || /\.(mp4|webm|mov|mkv|avi|m4v)$/i.test(file.name);
    return { file, kind: isVideo ? "video" : "image", url: URL.createObjectURL(file) };
  });
  media[name] = name === "context" ? added.slice(0, 1) : [...media[name], ...added];
  render();
}

function renderZone(name, title, words) {
  const [heading, list, button] = $(name).children;
  heading.textContent = title;
  heading.hidden = !title;
  list.replaceChildren(...media[name].map((medium, i) => {
    const label = name === "candidates" ? `Candidate ${letter(i)}` : title;
    const remove = el("button", { type: "button", "aria-label": `Remove ${label}: ${medium.file.name}` }, "✕");
    remove.addEventListener("click", () => {
      media[name].splice(i, 1);
      render();
      const rest = list.querySelectorAll("button");
      (rest[Math.min(i, rest.length - 1)] ?? button).focus();
    });
    const mark = name === "candidates" ? badge(i) : null;
    const caption = el("p", { title: medium.file.name }, medium.file.name);
    return el("li", { class: medium.kind }, view(medium, label, true), el("div", { class: "line" }, mark, caption, remove));
  }));
  const more = media[name].length ? (name === "context" ? "Replace" : "Add more") : words;
  button.replaceChildren(more, el("small", {}, "Drop here, paste, or press to choose files"));
}

function dropTarget(event) {
  const over = event.target instanceof Element ? event.target.closest(".media") : null;
  return over?.id ?? (mode() === "understanding" ? "context" : "candidates");
}

const lightUp = (name) => {
  for (const each of Object.keys(media)) $(each).querySelector(".drop").classList.toggle("over", each === name);
};
document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  lightUp(dropTarget(event));
});
document.addEventListener("dragleave", (event) => event.relatedTarget ?? lightUp(null));
document.addEventListener("drop", (event) => {
  lightUp(null);
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  add(dropTarget(event), [...event.dataTransfer.files]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) add(dropTarget(event), [...event.clipboardData.files]);
});

function addAnswer() {
  const i = $("answer-list").children.length;
  const text = el("textarea", { rows: 2, dir: "auto", "aria-label": `Answer ${letter(i)}` });
  $("answer-list").append(el("label", {}, badge(i), text));
  return text;
}

/** Candidates that are not empty: media, or texts. */
function candidates() {
  if (mode() !== "understanding") return media.candidates;
  return [...$("answer-list").querySelectorAll("textarea")].map((area) => area.value.trim()).filter(Boolean);
}

const count = () => candidates().length;
const contexts = () => (mode() === "generation" ? [] : media.context);

// ---------------------------------------------------------------------------------------- questions

/** What is missing, and the element to repair it; null if the question is complete. */
function missing() {
  const drop = (name) => $(name).querySelector(".drop");
  if (mode() === "editing" && !media.context.length) return ["Add the image before the edit.", drop("context")];
  if (mode() === "understanding" && !media.context.length) return ["Add the image or video that the question is about.", drop("context")];
  if (!count()) {
    return mode() === "understanding" ? ["Write an answer.", $("answer-list").querySelector("textarea")]
      : ["Add an image or a video.", drop("candidates")];
  }
  if (mode() !== "understanding" && new Set(media.candidates.map(({ kind }) => kind)).size > 1) {
    return ["Candidates are either all images or all videos.", drop("candidates")];
  }
  if (!$("prompt").value.trim()) return [`Write the ${MODES[mode()].prompt.toLowerCase()}.`, $("prompt")];
  if (!chosen().length) return ["Choose a judge that can do this.", $("judges").querySelector("input:enabled") ?? drop("candidates")];
  return null;
}

/** Requests of a question: path, settings, and names of the judges each goes to. */
function calls({ candidates: { length: n }, orders }) {
  const can = (form) => chosen().filter((judge) => forms(judge).has(form)).map(({ name }) => name);
  const scoring = can("score");
  const comparing = can("compare");
  const found = [{ verb: "score", judges: scoring }];
  if (n === 2) found.push({ verb: "compare", judges: comparing, orders });
  if (n > 2) {
    const byPairs = $("by-pairs").checked ? comparing : comparing.filter((name) => !scoring.includes(name));
    found.push({ verb: "rank", judges: byPairs, by: "pairs", orders });
    found.push({ verb: "rank", judges: scoring.filter((name) => !byPairs.includes(name)), by: "score" });
  }
  return found.filter((call) => call.judges.length);
}

/** Body of a call, with each candidate and context as `part` writes it. */
function body({ verb, ...settings }, question, part) {
  const common = { task: question.task, prompt: question.prompt };
  if (question.criteria) common.criteria = question.criteria;
  if (question.context.length) common.context = question.context.map((each, i) => part(each, i, "context"));
  const parts = question.candidates.map((each, i) => part(each, i, "candidate"));
  const items = verb === "score" ? parts.map((each, i) => ({ id: letter(i), ...common, candidates: [each] }))
    : [{ id: "all", ...common, candidates: parts }];
  return { ...settings, items };
}

function question() {
  const [prompt, criteria] = [$("prompt").value.trim(), $("criteria").value.trim()];
  const orders = $("orders").checked ? 2 : 1;
  return { task: tasks()[0], prompt, criteria, orders, context: [...contexts()], candidates: [...candidates()] };
}

/** Bytes of a file in base64. */
function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result.slice(reader.result.indexOf(",") + 1)));
    reader.addEventListener("error", () => reject(new ServerError(0, `${file.name} cannot be read: ${reader.error.message}`)));
    reader.readAsDataURL(file);
  });
}

/** Answers to all calls, each [call, results by judge, or an error]. */
async function ask(asked, list, signal) {
  const encoded = new Map();
  for (const { file } of [...asked.context, ...asked.candidates].filter((each) => each.file)) {
    encoded.set(file, await base64(file));
  }
  const part = (each) => (typeof each === "string" ? { text: each } : { [each.kind]: encoded.get(each.file) });
  return Promise.all(list.map(async (call) => {
    const options = { method: "POST", signal, body: JSON.stringify(body(call, asked, part)), headers: { "Content-Type": "application/json" } };
    try {
      return [call, (await request(`v1/${call.verb}`, options)).results];
    } catch (error) {
      if (error instanceof ServerError) return [call, error];
      throw error;
    }
  }));
}

async function submit() {
  if (running) return;
  const lack = missing();
  say($("problem"), lack ? lack[0] : "");
  if (lack) return lack[1].focus();
  const asked = question();
  const list = calls(asked);
  const begun = performance.now();
  running = new AbortController();
  busy(true);
  try {
    const answers = await ask(asked, list, running.signal);
    renderResults(asked, answers, (performance.now() - begun) / 1000);
  } catch (error) {
    if (error.name !== "AbortError") say($("problem"), error.message);
    say($("status"), error.name === "AbortError" ? "Stopped." : "No result.");
  } finally {
    running = null;
    busy(false);
  }
}

function busy(is) {
  const hadFocus = document.activeElement === $("stop");
  $("submit").textContent = is ? "Judging…" : "Judge";
  $("submit").setAttribute("aria-disabled", is);
  $("stop").hidden = !is;
  $("results").classList.toggle("waiting", is);
  if (is) say($("status"), "Judging…");
  if (hadFocus) $("submit").focus();
}

// ------------------------------------------------------------------------------------------ results

function renderResults(asked, answers, seconds) {
  if (answers.every(([, got]) => got instanceof Error)) {
    say($("status"), "No result.");
    const errors = new Set(answers.map(([, error]) => error.message));
    return $("results").replaceChildren(...[...errors].map((text) => el("p", { class: "failed", role: "alert" }, text)));
  }
  const judges = roster.filter(({ name }) => answers.some(([call]) => call.judges.includes(name)));
  const cards = judges.map((judge) => {
    const [scores, outcome] = [true, false].map((isScore) => {
      const [, got] = answers.find(([{ verb, judges: names }]) => (verb === "score") === isScore && names.includes(judge.name)) ?? [];
      return got instanceof Error ? got : got?.[judge.name];
    });
    return card(asked, judge, scores, outcome);
  });
  $("results").replaceChildren(...cards.map((each) => each.node));
  const time = seconds < 1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(1)} s`;
  say($("status"), `Done in ${time}. ${cards.map((each) => each.summary).join(" ")}`);
  const title = $("results-title");
  if (title.getBoundingClientRect().top > 0.8 * innerHeight) title.scrollIntoView();
}

// ----------------------------------------------------------------------------- the same as a request

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const quoted = (name) => `"${name.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;

/** Question of the form, with stand-ins for what is still missing. */
function example() {
  const asked = question();
  const standIn = { file: { name: "image.png" }, kind: "image" };
  asked.prompt ||= { generation: "a red cube", editing: "make the cube blue", understanding: "What colour is the cube?" }[mode()];
  if (!asked.candidates.length) asked.candidates = mode() === "understanding" ? ["red"] : [standIn];
  if (mode() !== "generation" && !asked.context.length) asked.context = [{ file: { name: "source.png" }, kind: "image" }];
  return asked;
}

function renderRequest() {
  const asked = example();
  const verb = ["score", "compare"][asked.candidates.length - 1] ?? "rank";
  const names = chosen().length ? chosen().map(({ name }) => name) : ["JUDGE"];
  const [call = { verb, judges: names }] = calls(asked).filter((each) => each.verb === verb);
  $("curl").textContent = curl(call, asked);
  $("python").textContent = python(call, asked);
}

function curl(call, asked) {
  const files = [];
  const part = (each, i, place) => {
    if (typeof each === "string") return { text: each };
    files.push(`-F ${shell(`${place}${i}=@${quoted(each.file.name)}`)}`);
    return { [each.kind]: `part:${place}${i}` };
  };
  const json = JSON.stringify(body(call, asked, part));
  const access = sessionStorage.getItem(TOKEN) ? ['-H "Authorization: Bearer $UNIFIED_REWARD_TOKEN"'] : [];
  const url = new URL(`v1/${call.verb}`, document.baseURI);
  return [`curl ${url}`, ...access, `--form-string request=${shell(json)}`, ...files].join(" \\\n  ");
}

function python(call, asked) {
  const list = asked.candidates.map((each) => JSON.stringify(typeof each === "string" ? each : each.file.name));
  const noun = mode() === "understanding" ? "answer" : asked.candidates[0].kind;
  const terms = [JSON.stringify(asked.prompt), list.length === 1 ? `${noun}=${list[0]}` : `${noun}s=[${list.join(", ")}]`];
  for (const { file, kind } of asked.context) {
    terms.push(`${mode() === "editing" ? "source" : kind}=${JSON.stringify(file.name)}`);
  }
  if (call.by === "pairs") terms.push('by="pairs"');
  const names = call.judges.map((name) => name.replace(/[%?#]/g, encodeURIComponent));
  const criteria = asked.criteria ? "\n    # criteria are given to judge.ask, in a ur.Sample" : "";
  return `import unified_reward as ur

for name in ${JSON.stringify(names)}:
    judge = ur.open_judge(f"reward+${new URL(".", document.baseURI)}{name}")
    print(name, judge.${call.verb}(${terms.join(", ")}))${criteria}`;
}

// --------------------------------------------------------------------------------------------- page

function render() {
  const now = mode();
  $("context").hidden = now === "generation";
  $("candidates").hidden = now === "understanding";
  $("answers").hidden = now !== "understanding";
  $("prompt-label").textContent = MODES[now].prompt;
  renderZone("context", now === "editing" ? "Image before the edit" : "Image or video", "Choose a file");
  renderZone("candidates", now === "editing" ? "Edited images" : "", now === "editing" ? "Choose images" : "Choose images or videos");
  renderJudges();
}

for (const name of Object.keys(media)) zone(name);
addAnswer();
addAnswer();
$("add-answer").addEventListener("click", () => addAnswer().focus());
$("ask").addEventListener("change", (event) => event.target.name === "mode" && render());
$("ask").addEventListener("input", renderJudges);
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit();
});
$("stop").addEventListener("click", () => running?.abort());
render();
refresh();
