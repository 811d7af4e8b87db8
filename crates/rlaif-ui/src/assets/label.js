// The page of annotators: items, answers, drafts, keys.

import { Refused, ask, decide, el, get, insist, main, raw, say, session, text, token, wait } from "./page.js";

export const state = { item: null, answer: null, since: 0, seconds: 0, shown: 0, busy: false, flushing: false };

/** Seconds on the item, while the page is visible. */
const tick = () => {
  const now = performance.now();
  if (!document.hidden) state.seconds += (now - state.since) / 1000;
  state.since = now;
};
/** Keeps the time and the draft of a page that is hidden or left. */
function watchPage() {
  document.addEventListener("visibilitychange", () => {
    const hidden = document.hidden;
    const now = performance.now();
    if (hidden) state.seconds += (now - state.since) / 1000;
    state.since = now;
    if (hidden) saveDraft(true);
  });
  window.addEventListener("pagehide", () => saveDraft(true));
}

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
  const study = session.me.study;
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

/** The newest draft that the server does not have yet, the work of storing it, and the timer until then. */
export const drafts = { newest: null, work: null, timer: null };
const changed = () => {
  clearTimeout(drafts.timer);
  drafts.timer = setTimeout(saveDraft, 400);
};
function saveDraft(leaving = false) {
  clearTimeout(drafts.timer);
  drafts.timer = null;
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
  while (drafts.timer !== null || drafts.work) {
    if (drafts.timer !== null) saveDraft();
    await drafts.work;
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
  clearTimeout(drafts.timer);
  drafts.timer = null;
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
    // The text that was written meanwhile.
    await flush();
    show(reply);
    say("The last answer is undone");
  } catch (error) {
    say(error.message, true);
  }
  state.flushing = false;
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

export async function label() {
  document.addEventListener("keydown", onKey);
  watchPage();
  const kept = sessionStorage.getItem(`pending ${token}`);
  // An answer that was on its way when the page was left.
  if (kept) return show(await send(JSON.parse(kept)), false);
  return show(await get("/api/next"), false);
}
