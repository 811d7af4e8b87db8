// The page. Texts of prompts and responses reach it in pieces and become text nodes, never markup.
"use strict";

const token = location.hash.slice(1);
const main = document.getElementById("main");
const say = (text, bad = false) => {
  const status = document.getElementById("status");
  status.textContent = clean(text);
  status.classList.toggle("bad", bad);
  // What is well fades, each time again.
  for (const one of status.getAnimations()) {
    one.cancel();
    one.play();
  }
};

/** An element with attributes, listeners (`on..`) and children. */
function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** Pieces of a text: codes of hidden characters stand at odd places. */
const text = (pieces) => el("span", { class: "text", dir: "auto" },
  pieces.map((piece, at) => (at % 2 ? el("span", { class: "code" }, piece) : piece)));
const raw = (pieces) => pieces.map((piece, at) =>
  (at % 2 ? String.fromCodePoint(parseInt(piece.slice(2), 16)) : piece)).join("");

/** Pieces of a text that has come whole, such as a model's or a name: the codes of hidden characters at odd places. */
const piecesOf = (whole) => {
  const pieces = [];
  let from = 0;
  // Annotators get pieces alone.
  for (const found of state.hidden ? whole.matchAll(state.hidden) : []) {
    const code = found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    pieces.push(whole.slice(from, found.index), `U+${code}`);
    from = found.index + found[0].length;
  }
  return [...pieces, whole.slice(from)];
};
const clean = (whole) => piecesOf(whole).join("");

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(method, path, body, options = {}) {
  const response = await fetch(path, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(body === undefined ? {} : { "content-type": "application/json" }) },
    body: body === undefined ? undefined : JSON.stringify(body),
    ...options,
  });
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Refused(response.status, said.error?.message ?? `status ${response.status}`);
  }
  return response;
}
const get = async (path) => (await ask("GET", path)).json();

const state = { me: null, item: null, answer: null, since: 0, seconds: 0, shown: 0, busy: false, flushing: false };

/** Seconds on the item, while the page is visible. */
const tick = () => {
  const now = performance.now();
  if (!document.hidden) state.seconds += (now - state.since) / 1000;
  state.since = now;
};
document.addEventListener("visibilitychange", () => {
  const hidden = document.hidden;
  const now = performance.now();
  if (hidden) state.seconds += (now - state.since) / 1000;
  state.since = now;
  if (hidden) saveDraft(true);
});
window.addEventListener("pagehide", () => saveDraft(true));

const KEYS = [
  ["1", "the first answer is better"], ["2", "the second answer is better"], ["0", "both are equally good"],
  ["b", "both are bad"], ["s", "skip"], ["u", "undo the last answer"], ["n", "write a note"],
  ["Enter", "submit the strength or the ranking"], ["?", "this help"],
];

const STRENGTHS = [
  [-3, "1 much better"], [-2, "1 better"], [-1, "1 slightly better"], [0, "equal"],
  [1, "2 slightly better"], [2, "2 better"], [3, "2 much better"],
];

const VERDICTS = { first: "1 is better", second: "2 is better", tie: "tie", "both-bad": "both bad", skip: "skipped" };

/** Another one's answer in words, with the numbers that this reader sees. */
function opinionOf({ choice, strength, ranking }) {
  if (choice === "ranked") return `${ranking.map((at) => at + 1).join(" > ")}, from the best to the worst`;
  return STRENGTHS.find(([value]) => strength && value === strength)?.[1] ?? VERDICTS[choice];
}

function showProgress({ done, left }) {
  const all = done + left;
  document.getElementById("progress").replaceChildren(
    el("progress", { max: Math.max(all, 1), value: done, "aria-label": "progress" }), ` ${done} of ${all}`);
}

/** Texts that are shown on demand only. */
const folded = (fold, what, content) =>
  (fold ? el("details", { class: "fold" }, el("summary", {}, `${what}: possibly toxic, show it`), content) : content);

/** Shows what the server returned: an item, or the end. */
function show(reply, focus = true) {
  state.item = reply.item;
  showProgress(reply.progress);
  if (!reply.item) {
    main.replaceChildren(el("h2", {}, "Done"), el("p", {}, "There is nothing left to answer. Thank you."),
      el("p", {}, button("Undo the last answer", undo, "u")));
    if (focus) main.focus();
    return;
  }
  const { item } = reply;
  const draft = item.draft ?? {};
  state.answer = {
    choice: null, strength: draft.strength ?? null, facets: { ...draft.facets }, reasons: new Set(draft.reasons ?? []),
    note: draft.note ?? "", edited: draft.edited ?? null, ranking: draft.ranking ?? [],
  };
  state.seconds = draft.seconds ?? 0;
  state.since = performance.now();
  state.key = crypto.randomUUID();
  const study = state.me.study;
  const many = item.responses.length > 2;
  const answers = item.responses.map((pieces, at) => answerBox(item, pieces, at, many));
  const verdicts = many
    ? [button("Submit the ranking", submitRanking, "Enter", true)]
    : [button("1 is better", () => choose("first"), "1", true), button("2 is better", () => choose("second"), "2", true),
      button("Tie", () => choose("tie"), "0"), button("Both bad", () => choose("both-bad"), "b")];
  verdicts.push(button("Skip", () => choose("skip"), "s"), button("Undo", undo, "u"), button("Help", help, "?"));
  const others = (item.others ?? []).map((other) => el("li", {}, opinionOf(other), other.note.some(Boolean) ? [": ", text(other.note)] : null));
  main.replaceChildren(...[
    study.instructions ? el("details", { open: reply.progress.done === 0 }, el("summary", {}, "Instructions"), el("p", { class: "instructions" }, study.instructions)) : null,
    el("section", { class: "prompt", "aria-labelledby": "prompt" }, el("h2", { id: "prompt", tabindex: "-1" }, "Prompt"),
      folded(item.fold, "Prompt", el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "text of the prompt" }, text(item.prompt)))),
    el("div", { class: "answers" }, answers),
    el("div", { class: "verdicts", role: "group", "aria-label": "verdict" }, verdicts),
    others.length ? el("section", { class: "others", "aria-label": "other answers" }, el("h2", {}, "They disagreed"), el("ul", {}, others)) : null,
    el("div", { class: "more" },
      many ? null : fieldset("Strength", STRENGTHS.map(([value, name]) => radio("strength", name, state.answer.strength === value, () => setStrength(value)))),
      many ? null : study.facets.map((facet) => fieldset(`More ${facet}`,
        [["first", "1"], ["tie", "tie"], ["second", "2"], ["both-bad", "neither"]].map(([choice, name]) =>
          radio(`facet ${facet}`, name, state.answer.facets[facet] === choice, () => { state.answer.facets[facet] = choice; })))),
      study.reasons.length ? fieldset("Reasons", study.reasons.map((reason) => el("label", {},
        el("input", { type: "checkbox", checked: state.answer.reasons.has(reason), onchange: (event) => {
          state.answer.reasons[event.target.checked ? "add" : "delete"](reason);
          changed();
        } }), reason))) : null),
    el("label", { class: "block" }, "Note", el("textarea", { id: "note", rows: "2", oninput: (event) => { state.answer.note = event.target.value; changed(); } }, state.answer.note)),
  ].filter(Boolean));
  showRanking();
  // Both answers scroll together, so that the same line stands beside the same line.
  const [one, other] = document.querySelectorAll(".answer .scroll");
  if (!many && one && other) {
    for (const [from, to] of [[one, other], [other, one]]) {
      from.addEventListener("scroll", () => { if (from.matches(":hover, :focus")) to.scrollTop = from.scrollTop; });
    }
  }
  window.scrollTo(0, 0);
  state.shown = performance.now();
  if (focus) document.getElementById("prompt").focus({ preventScroll: true });
}

function button(name, action, key, strong = false) {
  // The second click of a double click would be for the next item.
  const once = (event) => (event.detail > 1 ? undefined : action());
  return el("button", { type: "button", class: strong ? "choose main" : "choose", "aria-keyshortcuts": key, onclick: once }, name, " ", el("kbd", { "aria-hidden": "true" }, key));
}
const fieldset = (name, children) => el("fieldset", {}, el("legend", {}, name), el("div", { class: "choices" }, children));
function radio(group, name, checked, action) {
  return el("label", {}, el("input", { type: "radio", name: group, checked, onchange: () => { action(); changed(); } }), name);
}

function answerBox(item, pieces, at, many) {
  const number = at + 1;
  const box = el("section", { class: "answer", "aria-labelledby": `answer-${number}`, "data-at": String(at) },
    el("h2", { id: `answer-${number}` }, `Answer ${number} `, el("span", { class: "rank" })));
  const edited = state.answer.edited?.response === at ? state.answer.edited.text : null;
  const body = el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `text of answer ${number}` }, text(pieces));
  const area = el("textarea", { "aria-label": `answer ${number}, edited`, hidden: edited === null, oninput: (event) => {
    state.answer.edited = { response: at, text: event.target.value };
    changed();
  } });
  area.value = edited ?? "";
  const toggle = () => {
    const opens = area.hidden;
    for (const other of document.querySelectorAll(".answer textarea")) other.hidden = true;
    for (const other of document.querySelectorAll(".edit")) other.setAttribute("aria-pressed", "false");
    state.answer.edited = null;
    if (opens) {
      area.hidden = false;
      area.value = raw(pieces);
      area.focus();
      edit.setAttribute("aria-pressed", "true");
    }
    changed();
  };
  const edit = el("button", { type: "button", class: "choose", "aria-pressed": String(edited !== null), onclick: () => {
    const now = state.answer.edited;
    if (!now || now.text === raw(item.responses[now.response])) return toggle();
    return decide(`Drop your edit of answer ${now.response + 1}?`, ["One answer can be edited at a time. The edit cannot be brought back."],
      ["Keep the edit", "Drop the edit"], toggle);
  } }, "Edit into a better one");
  edit.classList.add("edit");
  const foot = el("div", { class: "foot" }, many ? button(`Rank ${number} next`, () => rank(at), String(number)) : null, edit);
  box.append(folded(item.fold, `Answer ${number}`, body), area, foot);
  return box;
}

function setStrength(value) {
  state.answer.strength = value;
}

function rank(at) {
  const { ranking } = state.answer;
  if (ranking.includes(at)) return;
  ranking.push(at);
  showRanking();
  changed();
  const left = state.item.responses.length - ranking.length;
  say(left ? `Answer ${at + 1} is number ${ranking.length}` : "The ranking is complete; Enter submits it");
}

function showRanking() {
  for (const box of document.querySelectorAll(".answer")) {
    const place = state.answer.ranking.indexOf(Number(box.dataset.at));
    box.querySelector(".rank").textContent = place < 0 ? "" : `· number ${place + 1}`;
    box.classList.toggle("chosen", place >= 0);
  }
}

const submitRanking = () => (state.answer.ranking.length === state.item.responses.length
  ? choose("ranked") : say("Rank every answer first, the best one first", true));

/** The answer as the server wants it. */
function answerOf(choice) {
  const { strength, facets, reasons, note, edited, ranking } = state.answer;
  const signs = { first: -1, second: 1, tie: 0, "both-bad": 0 };
  const fits = strength !== null && Math.sign(strength) === signs[choice];
  return {
    choice, facets, reasons: [...reasons], note, seconds: Math.round(state.seconds * 10) / 10,
    ...(fits ? { strength } : {}), ...(edited?.text ? { edited } : {}), ...(choice === "ranked" ? { ranking } : {}),
  };
}

let timer = null;
/** The newest draft that the server does not have yet, and the work of storing it. */
const drafts = { newest: null, work: null };
const changed = () => {
  clearTimeout(timer);
  timer = setTimeout(saveDraft, 400);
};
function saveDraft(leaving = false) {
  clearTimeout(timer);
  timer = null;
  if (!state.item || !state.answer || state.busy) return;
  tick();
  const { strength, facets, reasons, note, edited, ranking } = state.answer;
  const empty = strength === null && !note && !edited && !ranking.length && !reasons.size && !Object.keys(facets).length;
  if (leaving && empty && !drafts.newest) return;
  const draft = { strength, facets, reasons: [...reasons], note, edited, ranking, seconds: state.seconds };
  const newest = { path: `/api/draft/${state.item.number}`, draft };
  // A page that is left cannot wait; one that is hidden alone tries again.
  if (leaving) ask("PUT", newest.path, draft, { keepalive: true }).catch(() => { drafts.newest ??= newest; storeDrafts(); });
  else {
    drafts.newest = newest;
    storeDrafts();
  }
}

/** Stores drafts one after the other, the newest alone, until the server has it. */
function storeDrafts() {
  drafts.work ??= (async () => {
    for (let tries = 0, sent; (sent = drafts.newest);) {
      try {
        await ask("PUT", sent.path, sent.draft);
        if (drafts.newest === sent) drafts.newest = null;
        if (tries) say("Saved");
        tries = 0;
      } catch (error) {
        // Answered meanwhile.
        if (!drafts.newest) return;
        if (error instanceof Refused && error.status < 500) {
          if (drafts.newest === sent) drafts.newest = null;
          say(`Not saved: ${error.message}`, true);
        } else {
          say("Not saved yet: the server does not answer. Trying again.", true);
          await wait(Math.min(250 * 2 ** tries, 5000));
          tries += 1;
        }
      }
    }
  })().finally(() => { drafts.work = null; });
  return drafts.work;
}

/** Stores what was changed last, before another item is shown. */
async function flush() {
  while (timer !== null || drafts.work) {
    if (timer !== null) saveDraft();
    await drafts.work;
  }
}

const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Asks until the server answers; `doing` begins the message meanwhile. A refusal is an answer. */
async function insist(doing, request) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await request();
    } catch (error) {
      if (error instanceof Refused && error.status < 500) throw error;
      say(`${doing}: the server does not answer. Trying again.`, true);
      await wait(Math.min(250 * 2 ** tries, 5000));
    }
  }
}

/** Sends an answer until the server has it, and returns the next item. The key makes sure that it is stored once. */
async function send(body) {
  const kept = `pending ${token}`;
  sessionStorage.setItem(kept, JSON.stringify(body));
  try {
    return await insist("Not saved yet", async () => (await ask("POST", "/api/answer", body)).json());
  } catch (error) {
    // Another tab was faster.
    if (error.status !== 409) throw error;
    await tellLost(body.answer);
    return { ...await insist("No next item yet", () => get("/api/next")), lost: true };
  } finally {
    sessionStorage.removeItem(kept);
  }
}

/** Tells that an answer was not stored, with the texts that belong to it, until the reader closes it. */
function tellLost({ choice, strength, ranking, note, edited }) {
  const kept = (name, value) => (value ? el("label", { class: "block" }, name, el("textarea", { readonly: true, rows: "4" }, value)) : null);
  return new Promise((seen) => {
    const dialog = el("dialog", { "aria-labelledby": "lost", onclose: () => { dialog.remove(); seen(); } },
      el("h2", { id: "lost" }, "Not stored"),
      el("p", {}, `This item was answered elsewhere, in another tab or on another device. That answer stays; this one, “${opinionOf({ choice, strength, ranking })}”, was not stored.`),
      note || edited ? el("p", {}, "Copy what you wrote if you need it. To change the stored answer, continue and undo it.") : el("p", {}, "To change the stored answer, continue and undo it."),
      kept("Your note", note), kept("Your edited answer", edited?.text),
      el("form", { method: "dialog" }, el("button", { class: "choose main", autofocus: true }, "Next item")));
    document.body.append(dialog);
    dialog.showModal();
    say("Not stored: this item was answered elsewhere", true);
  });
}

async function choose(choice) {
  if (state.busy || state.flushing || !state.item) return;
  state.busy = true;
  clearTimeout(timer);
  timer = null;
  // The answer has all that a draft has.
  drafts.newest = null;
  tick();
  try {
    const reply = await send({ item: state.item.number, key: state.key, answer: answerOf(choice) });
    state.busy = false;
    show(reply);
    say(reply.lost ? "" : choice === "skip" ? "Skipped" : "Saved");
  } catch (error) {
    state.busy = false;
    saveDraft();
    say(error.message, true);
  }
  state.busy = false;
}

async function undo() {
  if (state.busy || state.flushing) return;
  if (state.answer?.ranking.length && state.item?.responses.length > 2) {
    state.answer.ranking.pop();
    showRanking();
    changed();
    return;
  }
  state.flushing = true;
  try {
    await flush();
    // The key makes sure that one answer is undone, if the first request came through and its reply did not.
    const body = { key: crypto.randomUUID() };
    const reply = await insist("Not undone yet", async () => (await ask("POST", "/api/undo", body)).json());
    // What was written meanwhile.
    await flush();
    show(reply);
    say("The last answer is undone");
  } catch (error) {
    say(error.message, true);
  }
  state.flushing = false;
}

/** Asks before something that cannot be taken back. */
function decide(question, content, [stay, act], action) {
  const dialog = el("dialog", { "aria-labelledby": "question", onclose: () => dialog.remove() },
    el("h2", { id: "question" }, question), el("p", {}, content),
    el("form", { method: "dialog", class: "verdicts" }, el("button", { class: "choose", autofocus: true }, stay),
      // The dialog gives the focus back when it closes, and the action may move it.
      el("button", { type: "button", class: "choose main", onclick: () => { dialog.close(); action(); } }, act)));
  document.body.append(dialog);
  dialog.showModal();
}

function help() {
  const dialog = el("dialog", { "aria-labelledby": "help", onclose: () => dialog.remove() },
    el("h2", { id: "help" }, "Keys"),
    el("dl", {}, KEYS.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)])),
    el("p", {}, "With three or more answers, press their numbers from the best to the worst, then Enter."),
    el("form", { method: "dialog" }, el("button", { class: "choose" }, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}

function onKey(event) {
  const dialog = document.querySelector("dialog[open]");
  // Chromium tells the end of a dialog in a hidden tab late.
  if (dialog && event.key === "Escape") {
    dialog.close();
    dialog.remove();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || dialog) return undefined;
  const { target } = event;
  const writing = target.matches?.("textarea, input[type=text]");
  // A key that is held down, or was pressed before the item was there, is not an answer to it.
  if (!writing && (event.repeat || event.timeStamp < state.shown)) return undefined;
  if (event.key === "Escape" && writing) return document.getElementById("prompt")?.focus();
  if (writing) return undefined;
  const many = state.item && state.item.responses.length > 2;
  const digit = /^[1-9]$/.test(event.key) ? Number(event.key) - 1 : -1;
  const keys = { 1: () => choose("first"), 2: () => choose("second"), 0: () => choose("tie"), b: () => choose("both-bad") };
  const always = { s: () => choose("skip"), u: undo, n: () => document.getElementById("note")?.focus(), "?": help };
  let action = always[event.key.toLowerCase()] ?? always[event.key];
  if (many && digit >= 0 && digit < state.item.responses.length) action = () => rank(digit);
  else if (!many && state.item) action = action ?? keys[event.key.toLowerCase()];
  if (event.key === "Enter" && state.item && !target.matches("button, summary, a")) {
    action = many ? submitRanking : submitStrength;
  }
  if (!action) return undefined;
  event.preventDefault();
  return action();
}

function submitStrength() {
  const { strength } = state.answer;
  if (strength === null) return say("Press 1, 2, 0 or b, or choose a strength", true);
  return choose(strength < 0 ? "first" : strength > 0 ? "second" : "tie");
}

async function label() {
  document.addEventListener("keydown", onKey);
  const kept = sessionStorage.getItem(`pending ${token}`);
  // An answer that was on its way when the page was left.
  if (kept) return show(await send(JSON.parse(kept)), false);
  return show(await get("/api/next"), false);
}

const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);
const digits = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));

function table(caption, heads, rows) {
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell) => el("td", {}, cell)))))));
}

let refreshing = null;
/** Refreshes a view as long as it is open; a failure is told until the next success. */
function refreshEvery(refresh, pause) {
  clearInterval(refreshing);
  let failed = false;
  refreshing = setInterval(async () => {
    if (document.hidden) return;
    try {
      await refresh();
      if (failed) say("");
      failed = false;
    } catch (error) {
      failed = true;
      say(error.message, true);
    }
  }, pause);
}

async function overview() {
  const people = el("div");
  const agreement = el("div");
  const name = el("input", { type: "text", id: "name", required: true, maxlength: "100" });
  const referee = el("input", { type: "checkbox" });
  const form = el("form", { class: "foot", onsubmit: async (event) => {
    event.preventDefault();
    try {
      await ask("POST", "/api/annotators", { name: name.value, referee: referee.checked });
      name.value = "";
      await refresh();
    } catch (error) {
      say(error.message, true);
    }
  } }, el("label", {}, "Name ", name), " ", el("label", {}, referee, " referee"), " ", el("button", { class: "choose" }, "Add"));
  const forms = ["preferences", "demonstrations", "answers", "label-studio", "argilla", "ground-truth"];
  const download = async (kind) => {
    const response = await ask("GET", `/api/export/${kind}`);
    const blob = await response.blob();
    const leftOut = response.headers.get("x-left-out");
    say(leftOut ? `${kind}: ${leftOut}` : `${kind}: saved`, Boolean(leftOut));
    const url = URL.createObjectURL(blob);
    el("a", { href: url, download: `${kind}.${kind === "label-studio" ? "json" : "jsonl"}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };
  main.replaceChildren(
    el("h2", {}, "People"), people, form,
    el("h2", {}, "Agreement"), agreement,
    el("h2", {}, "Export"), el("div", { class: "actions" }, forms.map((kind) =>
      el("button", { type: "button", class: "choose", onclick: () => download(kind).catch((error) => say(error.message, true)) }, kind))));
  let last = "";
  async function refresh() {
    const found = await get("/api/study");
    const now = JSON.stringify(found);
    if (now === last) return;
    last = now;
    const by = Object.fromEntries(found.agreement.annotators.map((one) => [one.name, one]));
    people.replaceChildren(table("people", ["name", "role", "answered", "left", "skipped", "median time", "known", "first shown", "with majority", "link"],
      found.people.map((one) => {
        const own = by[one.name];
        const link = one.token ? el("a", { href: `/#${one.token}`, target: "_blank", rel: "noopener", "aria-label": `link of ${one.name}` }, "open") : "–";
        return [one.name, one.role, String(one.done), String(one.left), String(own.skipped),
          own.median_seconds === null ? "–" : `${own.median_seconds.toFixed(1)} s`,
          own.known ? `${own.known_right} of ${own.known}` : "–", percent(own.first_shown), percent(own.with_majority), link];
      })));
    const all = found.agreement;
    const row = (what, one) => [what, String(one.items), String(one.answers), percent(one.raw), digits(one.fleiss_kappa), digits(one.alpha_nominal), digits(one.alpha_interval)];
    const parts = [
      el("p", {}, `${all.answered} of ${all.items} items have answers; people disagree on ${all.conflicts}.`),
      table("agreement", ["agreement on", "items", "answers", "raw", "Fleiss κ", "α names", "α scale"],
        [row("choice", all.choice), ...Object.entries(all.facets).map(([facet, one]) => row(facet, one))]),
    ];
    if (all.pairs.length) {
      parts.push(el("h3", {}, "Two annotators"), table("pairs of annotators", ["one", "the other", "items", "raw", "Cohen κ"],
        all.pairs.map((pair) => [pair.one, pair.other, String(pair.items), percent(pair.raw), digits(pair.cohen_kappa)])));
    }
    if (all.judges.length) {
      const share = (one) => (one ? [percent(one.share), `${percent(one.ci95[0])} to ${percent(one.ci95[1])}`] : ["–", "–"]);
      parts.push(el("h3", {}, "Judges in both orders"), table("judges in both orders", ["judge", "facet", "pairs", "flips", "95 % interval", "first wins", "95 % interval"],
        all.judges.flatMap((judge) => Object.entries(judge.facets).map(([facet, one]) =>
          [judge.name, facet, String(one.position_flip?.n ?? 0), ...share(one.position_flip), ...share(one.first_wins)]))));
    }
    if (all.makers) {
      parts.push(el("h3", {}, "Models"), table("strengths of models", ["model", "comparisons", "θ", "95 % interval", "Elo"],
        all.makers.makers.map((one) => [one.maker, String(one.comparisons), digits(one.theta), `${digits(one.ci95[0])} to ${digits(one.ci95[1])}`, one.elo.toFixed(0)])));
      if (all.makers.prior_because) {
        parts.push(el("p", { class: "warning" }, `${all.makers.prior_because}: ${all.makers.groups.map((group) => group.join(", ")).join(" | ")}. Strengths have a weak prior, and compare models of one group alone.`));
      }
    }
    agreement.replaceChildren(...parts);
  }
  await refresh();
  refreshEvery(refresh, 2000);
}

/** An SVG that the server has drawn. */
const drawing = (svg) => document.importNode(new DOMParser().parseFromString(svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"'), "image/svg+xml").documentElement, true);

/** Passes on the server-sent events of a response. */
async function eachEvent(response, onEvent) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    for (let end; (end = rest.indexOf("\n\n")) >= 0; rest = rest.slice(end + 2)) {
      const event = rest.slice(6, end);
      if (event !== "[DONE]") onEvent(JSON.parse(event));
    }
  }
}

const pathOf = (kind, name) => `/api/${kind}/${name.split("/").map(encodeURIComponent).join("/")}`;

const age = (seconds) => (seconds === null ? "–" : seconds < 90 ? `${seconds} s ago` : seconds < 5400 ? `${Math.round(seconds / 60)} min ago` : `${Math.round(seconds / 3600)} h ago`);

/** Asks before a run is stopped. */
function confirmStop(name) {
  decide("Stop this run?", [clean(name), ": it finishes its step, writes a checkpoint and ends, as after Ctrl‑C. ", el("code", {}, "--resume"), " continues it."],
    ["Let it run", "Stop the run"], async () => {
      try {
        await ask("POST", pathOf("stop", name));
        say(`${name} ends after its step`);
      } catch (error) {
        say(error.message, true);
      }
    });
}

let watching = new AbortController();

const MISSING = "No folder below has a metrics.jsonl.";
const HEADS = ["show", "run", "step", "last step", "state", "findings", "report"];
const cellsOf = (one) => [one.step === null ? "–" : String(one.step), age(one.age_s), one.running ? "running" : "–", String(one.findings), one.report ? "yes" : "–"];

/** What stands below the curves of a run: the stop button, findings, samples, the run file. */
function runSection(name) {
  const stop = el("button", { type: "button", class: "choose", hidden: true, onclick: () => confirmStop(name) }, `Stop ${clean(name)}`);
  const [findings, samples, file] = [el("div"), el("div"), el("pre", { tabindex: "0" })];
  const box = el("section", { "aria-label": clean(name) }, el("h3", {}, clean(name)), stop, findings, samples, el("details", {}, el("summary", {}, "run file"), file));
  const known = new Map();
  /** Details that are open stay open. */
  const show = (run) => {
    findings.replaceChildren(...run.findings.map((one) => el("p", { class: "warning" }, clean(`step ${one.step}: ${one.seen}. ${one.cause} ${one.advice}`))));
    for (const sample of run.samples) {
      const [key, responses] = [JSON.stringify(sample.prompt), JSON.stringify(sample.responses)];
      if (!known.has(key)) {
        const content = el("div");
        known.set(key, { content, last: null });
        samples.append(el("details", {}, el("summary", {}, text(sample.prompt)), content));
      }
      const own = known.get(key);
      if (own.last === responses) continue;
      own.last = responses;
      own.content.replaceChildren(table("responses over time", ["step", "score", "response"], sample.responses.map((one) =>
        [String(one.step), one.score === null ? "–" : digits(one.score), text(one.response)])));
    }
    file.replaceChildren(text(run.file));
  };
  return { box, stop, show, seen: null };
}

/** Draws the curves of runs as they arrive: each number in one figure, with the lines of all runs on common axes. */
function drawCurves(legend, curves, names, signal) {
  const figures = new Map();
  const one = names.length === 1 ? el("small", {}, ` ${clean(names[0])}`) : null;
  const line = (kind) => drawing(`<svg viewBox="0 0 32 10" aria-hidden="true"><polyline class="${kind}" points="0,5 32,5"/></svg>`);
  const drawn = ({ runs: all, curves: found }) => {
    const failed = all.filter((run) => run.error);
    if (failed.length) say(failed.map((run) => run.error).join(". "), true);
    if (names.length > 1 && !legend.children.length) {
      legend.append(...all.map((run) => el("li", {}, line(run.class), el("span", {}, clean(run.name)))));
    }
    for (const { name, svg } of found) {
      if (!figures.has(name)) {
        figures.set(name, el("figure", { "data-name": name }));
        curves.replaceChildren(...[...figures.keys()].sort().map((key) => figures.get(key)));
      }
      figures.get(name).replaceChildren(el("figcaption", {}, clean(name), one?.cloneNode(true)), drawing(clean(svg)));
    }
  };
  ask("POST", "/api/curves", { runs: names }, { signal }).then((response) => eachEvent(response, drawn))
    .catch((error) => { if (!signal.aborted) say(error.message, true); });
}

/** The list of runs; the curves of the chosen ones stand below it, in common figures. */
async function runs() {
  const chosen = new Set();
  const sections = new Map();
  const [list, below] = [el("div"), el("div")];
  let found = [];
  main.replaceChildren(el("h2", {}, "Runs"), list, below);
  /** Asks for what has changed in the chosen runs. */
  const look = () => Promise.all(found.filter((one) => sections.has(one.name)).map(async (one) => {
    const section = sections.get(one.name);
    section.stop.hidden = !one.running;
    const now = `${one.step} ${one.findings}`;
    if (section.seen === now) return;
    section.seen = now;
    section.show(await get(pathOf("run", one.name)));
  }));
  const choose = async () => {
    watching.abort();
    watching = new AbortController();
    const names = [...chosen].sort();
    for (const name of sections.keys()) if (!chosen.has(name)) sections.delete(name);
    for (const name of names) if (!sections.has(name)) sections.set(name, runSection(name));
    const [legend, curves] = [el("ul", { class: "legend", "aria-label": "lines of runs" }), el("div", { class: "grid" })];
    below.replaceChildren(...(names.length > 1 ? [legend] : []), curves, ...names.map((name) => sections.get(name).box));
    if (names.length) drawCurves(legend, curves, names, watching.signal);
    await look();
  };
  const box = (one) => el("input", { type: "checkbox", "aria-label": `show ${clean(one.name)}`, checked: chosen.has(one.name), onchange: (event) => {
    chosen[event.target.checked ? "add" : "delete"](one.name);
    choose().catch((error) => say(error.message, true));
  } });
  async function refresh() {
    const names = found.map((one) => one.name).join("\n");
    found = await get("/api/runs");
    if (!found.length) return list.replaceChildren(el("p", {}, MISSING));
    if (names !== found.map((one) => one.name).join("\n")) {
      list.replaceChildren(table("runs", HEADS, found.map((one) => [box(one), clean(one.name), ...cellsOf(one)])));
    } else {
      list.querySelectorAll("tbody tr").forEach((row, at) => cellsOf(found[at]).forEach((cell, place) => {
        if (row.cells[place + 2].textContent !== cell) row.cells[place + 2].textContent = cell;
      }));
    }
    return look();
  }
  await refresh();
  refreshEvery(refresh, 3000);
}

function views(me) {
  const open = (view) => {
    watching.abort();
    clearInterval(refreshing);
    say("");
    view().catch((error) => say(error.message, true));
  };
  const all = [["Study", me.study, overview], ["Runs", me.runs, runs], ["Talk", me.models.length, talk]].filter(([, there]) => there);
  if (all.length > 1) {
    document.querySelector(".bar").append(el("nav", { "aria-label": "views" }, all.map(([name, , view]) =>
      [el("button", { type: "button", class: "choose", onclick: () => open(view) }, name), " "]).flat()));
  }
  return all[0][2]();
}

async function start() {
  if (!token) throw new Error("The address has no token; open the address that `rlaif ui` printed.");
  state.me = await get("/api/me");
  const { me } = state;
  if (me.hidden) state.hidden = new RegExp(me.hidden, "gu");
  if (me.study) {
    document.title = me.study.title;
    document.getElementById("title").textContent = me.study.title;
  }
  document.getElementById("who").textContent = me.name ?? me.role;
  if (me.role === "owner") return views(me);
  return label();
}

window.addEventListener("hashchange", () => location.reload());
start().catch((error) => {
  main.replaceChildren(el("h2", {}, "Not available"), el("p", {}, error.message));
});
