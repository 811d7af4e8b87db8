// Parts that all views share: elements, texts, requests, messages. Texts of prompts and responses reach the page in pieces and
// become text nodes, never markup.

export const token = location.hash.slice(1);
export const main = document.getElementById("main");
export const say = (text, bad = false) => {
  const status = document.getElementById("status");
  status.textContent = clean(text);
  status.classList.toggle("bad", bad);
  // A good message fades, each time again.
  for (const one of status.getAnimations()) {
    one.cancel();
    one.play();
  }
};

/** An element with attributes, listeners (`on..`) and children. */
export function el(name, attributes = {}, ...children) {
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
export const text = (pieces) => el("span", { class: "text", dir: "auto" },
  pieces.map((piece, at) => (at % 2 ? el("span", { class: "code" }, piece) : piece)));
export const raw = (pieces) => pieces.map((piece, at) =>
  (at % 2 ? String.fromCodePoint(parseInt(piece.slice(2), 16)) : piece)).join("");

/** Pieces of a text that has come whole, such as a model's or a name: the codes of hidden characters at odd places. */
export const piecesOf = (whole) => {
  const pieces = [];
  let from = 0;
  for (const found of session.hidden ? whole.matchAll(session.hidden) : []) {
    const code = found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    pieces.push(whole.slice(from, found.index), `U+${code}`);
    from = found.index + found[0].length;
  }
  return [...pieces, whole.slice(from)];
};
export const clean = (whole) => piecesOf(whole).join("");

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function ask(method, path, body, options = {}) {
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
export const get = async (path) => (await ask("GET", path)).json();

/** Who opened the page, and the pattern of hidden characters; annotators get pieces alone. */
export const session = { me: null, hidden: null };

export const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Asks until the server answers; `doing` begins the message meanwhile. A refusal is an answer. */
export async function insist(doing, request) {
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

/** Asks before something that cannot be taken back. */
export function decide(question, content, [stay, act], action) {
  const dialog = el("dialog", { "aria-labelledby": "question", onclose: () => dialog.remove() },
    el("h2", { id: "question" }, question), el("p", {}, content),
    el("form", { method: "dialog", class: "verdicts" }, el("button", { class: "choose", autofocus: true }, stay),
      // The dialog gives the focus back when it closes, and the action may move it.
      el("button", { type: "button", class: "choose main", onclick: () => { dialog.close(); action(); } }, act)));
  document.body.append(dialog);
  dialog.showModal();
}

export const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);
export const digits = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));

export function table(caption, heads, rows) {
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell) => el("td", {}, cell)))))));
}

let refreshing = null;
/** Refreshes a view as long as it is open; a failure is told until the next success. */
export function refreshEvery(refresh, pause) {
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

let watching = new AbortController();
/** Ends the requests of before, and returns the signal of the next ones. */
export function watch() {
  watching.abort();
  watching = new AbortController();
  return watching.signal;
}
export const unwatch = () => watching.abort();

/** Ends the work of a view that is closed. */
export function leave() {
  unwatch();
  clearInterval(refreshing);
}

/** Passes on the server-sent events of a response. */
export async function eachEvent(response, onEvent) {
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
